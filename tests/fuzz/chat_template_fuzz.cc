// Any bytes as a chat template: an Error or a text, within small limits of work.

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "llm/chat_template.h"

using namespace tokamak;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const llm::TemplateContext context = llm::TemplateContext::parse(R"({
    "messages": [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi \"you\" äöü 你好"},
                 {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdef012", "type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, null, true]}}}]},
                 {"role": "tool", "content": "42"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "array"}}}}}],
    "documents": null, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "n": 3, "list": [3, 1, 2], "s": "abc"})");
  const llm::ChatTemplateLimits limits{.max_output_bytes = 1 << 20, .max_steps = 200'000, .max_depth = 100};
  try {
    const auto parsed = llm::ChatTemplate::parse({reinterpret_cast<const char*>(data), size}, limits);
    (void)parsed.render(context, 1'700'000'000);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::Internal) throw;
  }
  return 0;
}
