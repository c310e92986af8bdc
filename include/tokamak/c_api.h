#ifndef TOKAMAK_C_API_H
#define TOKAMAK_C_API_H
/* The C API, over the C++ one. Every function that can fail returns a status, TK_OK (0) on success; tk_last_error() then has the message of
 * this thread's last failure. Handles are opaque; each is released with its own function, NULL is accepted there. Engines may be shared
 * between threads, a context belongs to one thread at a time. Nothing is thrown across. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tk_status {
  TK_OK = 0,
  TK_INVALID_ARGUMENT,
  TK_NOT_FOUND,
  TK_UNSUPPORTED,
  TK_CORRUPT,
  TK_OUT_OF_RANGE,
  TK_RESOURCE_EXHAUSTED,
  TK_IO,
  TK_INTERNAL
} tk_status;

/* Element types; the order is that of the C++ DType. */
typedef enum tk_dtype { TK_F32, TK_F16, TK_BF16, TK_F64, TK_I8, TK_I16, TK_I32, TK_I64, TK_U8, TK_U16, TK_U32, TK_U64, TK_BOOL } tk_dtype;

typedef struct tk_engine tk_engine;
typedef struct tk_context tk_context;

const char* tk_version(void);
const char* tk_last_error(void); /* never NULL; valid until this thread's next failure */

tk_status tk_engine_load(const char* path, tk_engine** engine);
/* Compiles an ONNX file (in libraries that contain the compiler). threads 0: all; opt_level 0 to 5. */
tk_status tk_engine_build(const char* onnx_path, int threads, int opt_level, tk_engine** engine);
tk_status tk_engine_save(const tk_engine* engine, const char* path);
void tk_engine_free(tk_engine* engine);

int tk_engine_num_inputs(const tk_engine* engine);
int tk_engine_num_outputs(const tk_engine* engine);
const char* tk_engine_input_name(const tk_engine* engine, int index); /* NULL past the end; lives as long as the engine */
const char* tk_engine_output_name(const tk_engine* engine, int index);
tk_status tk_engine_input_dtype(const tk_engine* engine, int index, tk_dtype* dtype);
/* Dims of an input, -1 where dynamic; at most `capacity` are written, the number there are goes to *rank. */
tk_status tk_engine_input_shape(const tk_engine* engine, int index, int64_t* dims, int capacity, int* rank);

tk_status tk_context_create(const tk_engine* engine, int profile, tk_context** context);
void tk_context_free(tk_context* context);
/* `data` is read by tk_context_run, not copied: it must stay until then. */
tk_status tk_context_set_input(tk_context* context, const char* name, tk_dtype dtype, const int64_t* dims, int rank, const void* data);
tk_status tk_context_run(tk_context* context);
/* Valid until the next run or the context's end. */
tk_status tk_context_output(const tk_context* context, const char* name, tk_dtype* dtype, const int64_t** dims, int* rank,
                            const void** data, size_t* size_bytes);

#ifdef __cplusplus
}
#endif
#endif
