#include "runtime/c_api.h"

#include <new>

#include "base/version.h"

namespace tokamak {
namespace {

thread_local std::string last_error;

void require(bool condition, const char* message) {
  if (!condition) fail(ErrorCode::InvalidArgument, "{}", message);
}

const char* name_at(const std::vector<TensorInfo>& infos, int index) {
  return index >= 0 && index < static_cast<int>(infos.size()) ? infos[index].name.c_str() : nullptr;
}

const TensorInfo& input_at(const tk_engine* engine, int index) {
  require(engine != nullptr, "the engine is NULL");
  const auto& inputs = engine->engine->inputs();
  if (index < 0 || index >= static_cast<int>(inputs.size()))
    fail(ErrorCode::NotFound, "there is no input {}; the engine has {}", index, inputs.size());
  return inputs[index];
}

static_assert(static_cast<int>(DType::Bool) == TK_BOOL && static_cast<int>(DType::I8) == TK_I8);

}  // namespace

tk_status keep_error() {
  try {
    throw;
  } catch (const Error& e) {
    last_error = e.what();
    return static_cast<tk_status>(static_cast<int>(e.code()) + 1);
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return TK_RESOURCE_EXHAUSTED;
  } catch (const std::exception& e) {
    last_error = e.what();
    return TK_INTERNAL;
  } catch (...) {
    last_error = "unknown error";
    return TK_INTERNAL;
  }
}

}  // namespace tokamak

using namespace tokamak;

extern "C" {

const char* tk_version(void) { return kVersion; }
const char* tk_last_error(void) { return last_error.c_str(); }

tk_status tk_engine_load(const char* path, tk_engine** engine) {
  return guarded([&] {
    require(path && engine, "path or engine is NULL");
    *engine = new tk_engine{Engine::load(path)};
  });
}

tk_status tk_engine_save(const tk_engine* engine, const char* path) {
  return guarded([&] {
    require(engine && path, "engine or path is NULL");
    engine->engine->save(path);
  });
}

void tk_engine_free(tk_engine* engine) { delete engine; }

int tk_engine_num_inputs(const tk_engine* engine) { return engine ? static_cast<int>(engine->engine->inputs().size()) : 0; }
int tk_engine_num_outputs(const tk_engine* engine) { return engine ? static_cast<int>(engine->engine->outputs().size()) : 0; }
const char* tk_engine_input_name(const tk_engine* engine, int index) { return engine ? name_at(engine->engine->inputs(), index) : nullptr; }
const char* tk_engine_output_name(const tk_engine* engine, int index) {
  return engine ? name_at(engine->engine->outputs(), index) : nullptr;
}

tk_status tk_engine_input_dtype(const tk_engine* engine, int index, tk_dtype* dtype) {
  return guarded([&] {
    require(dtype != nullptr, "dtype is NULL");
    *dtype = static_cast<tk_dtype>(input_at(engine, index).dtype);
  });
}

tk_status tk_engine_input_shape(const tk_engine* engine, int index, int64_t* dims, int capacity, int* rank) {
  return guarded([&] {
    require(rank != nullptr && (dims != nullptr || capacity == 0), "dims or rank is NULL");
    const ir::TensorType& type = input_at(engine, index).type;
    *rank = static_cast<int>(type.rank());
    for (int i = 0; i < *rank && i < capacity; ++i) dims[i] = type.dims[i].is_const() ? type.dims[i].value() : -1;
  });
}

tk_status tk_context_create(const tk_engine* engine, int profile, tk_context** context) {
  return guarded([&] {
    require(engine && context, "engine or context is NULL");
    ContextOptions options;
    options.profile = profile;
    *context = new tk_context{ExecutionContext(engine->engine, std::move(options))};
  });
}

void tk_context_free(tk_context* context) { delete context; }

tk_status tk_context_set_input(tk_context* context, const char* name, tk_dtype dtype, const int64_t* dims, int rank, const void* data) {
  return guarded([&] {
    require(context && name, "context or name is NULL");
    require(dtype >= TK_F32 && dtype <= TK_BOOL, "unknown dtype");
    require(rank >= 0 && rank <= 64 && (dims != nullptr || rank == 0), "rank is negative or above 64, or dims is NULL");
    Shape shape(dims, dims + rank);
    require(data != nullptr || num_elements(shape) == 0, "data is NULL");
    static const char kNothing = 0;
    context->context.set_input(name, Tensor::view(static_cast<DType>(dtype), std::move(shape), data ? data : &kNothing));
  });
}

tk_status tk_context_run(tk_context* context) {
  return guarded([&] {
    require(context != nullptr, "context is NULL");
    context->context.run();
  });
}

tk_status tk_context_output(const tk_context* context, const char* name, tk_dtype* dtype, const int64_t** dims, int* rank,
                            const void** data, size_t* size_bytes) {
  return guarded([&] {
    require(context && name, "context or name is NULL");
    const Tensor& t = context->context.output(name);
    if (t.dtype() > DType::Bool)
      fail(ErrorCode::Unsupported, "output \"{}\" has elements of {}, which the C API does not carry", name, to_string(t.dtype()));
    if (dtype) *dtype = static_cast<tk_dtype>(t.dtype());
    if (dims) *dims = t.shape().data();
    if (rank) *rank = static_cast<int>(t.rank());
    if (data) *data = t.raw();
    if (size_bytes) *size_bytes = static_cast<size_t>(t.size_bytes());
  });
}

}  // extern "C"
