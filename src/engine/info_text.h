#pragma once
// EngineInfo as lines of text: the engine file's info section.

#include <string>
#include <string_view>

#include "runtime/engine.h"

namespace tokamak::engine {

std::string to_text(const EngineInfo& info);
// Unknown keys are ignored. Throws Corrupt naming `what`.
EngineInfo info_from_text(std::string_view text, const std::string& what);

}  // namespace tokamak::engine
