#ifndef TOKAMAK_BACKEND_H
#define TOKAMAK_BACKEND_H
/* What a backend of the server is: a shared library libtokamak_NAME.so that exports
 *
 *     const tkb_backend* tokamak_backend(const tkb_server* server);  (NULL: it cannot work with this server)
 *
 * and so gives the server a table of functions, as the server gives it one. A model of `backend: "NAME"` is then: one tkb_model, and one
 * tkb_instance for each instance of its instance groups. The server owns queues, batches, time limits and statistics; a backend loads and
 * executes.
 *
 * Both tables begin with their size in bytes and the version of this header; a function is there if its offset is below `size` and it is
 * not NULL. Nothing is thrown across. Strings are UTF-8 and end with 0. Functions that can fail return NULL, or an error that the server's
 * `error` made; whoever receives one releases it (`error_free`). */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TKB_VERSION 1

typedef struct tkb_error tkb_error;       /* the server's */
typedef struct tkb_model tkb_model;       /* the backend's */
typedef struct tkb_instance tkb_instance; /* the backend's */

typedef enum tkb_code {
  TKB_INVALID_ARGUMENT,
  TKB_NOT_FOUND,
  TKB_UNSUPPORTED,
  TKB_UNAVAILABLE,
  TKB_RESOURCE_EXHAUSTED,
  TKB_CANCELLED,
  TKB_INTERNAL,
  TKB_ALREADY_EXISTS
} tkb_code;

/* TKB_BYTES: strings of any bytes, as KServe's BYTES. */
typedef enum tkb_dtype {
  TKB_F32,
  TKB_F16,
  TKB_BF16,
  TKB_F64,
  TKB_I8,
  TKB_I16,
  TKB_I32,
  TKB_I64,
  TKB_U8,
  TKB_U16,
  TKB_U32,
  TKB_U64,
  TKB_BOOL,
  TKB_BYTES
} tkb_dtype;

typedef struct tkb_bytes {
  const char* data;
  size_t size;
} tkb_bytes;

/* A dense row-major tensor on the host. */
typedef struct tkb_tensor {
  const char* name;
  tkb_dtype dtype;
  int32_t rank;
  const int64_t* dims;
  const void* data;         /* not of BYTES; may be unaligned */
  size_t size;              /* bytes at `data` */
  const tkb_bytes* strings; /* of BYTES: one an element */
  /* Outputs only. NULL: the server copies the data before `respond` returns. Else it keeps the data, and calls release(owner) once, from
   * any thread, when it needs it no more. BYTES are always copied. */
  void* owner;
  void (*release)(void* owner);
} tkb_tensor;

typedef enum tkb_parameter_kind { TKB_PARAMETER_BOOL, TKB_PARAMETER_INT, TKB_PARAMETER_DOUBLE, TKB_PARAMETER_STRING } tkb_parameter_kind;

typedef struct tkb_parameter {
  const char* name;
  tkb_parameter_kind kind;
  int64_t integer; /* and of BOOL */
  double number;
  const char* string;
} tkb_parameter;

enum { TKB_SEQUENCE_START = 1, TKB_SEQUENCE_END = 2 };

/* One request, checked against the model's config. It and all it points to live until its final response; every request given to
 * execute() must get one, during execute() or, from a decoupled or asynchronous backend, after it; or be rescheduled.
 *
 * A model with sequence_batching gets more than its clients send: inputs for control_input and state, and among the outputs asked for those
 * that are states. Rows of a batch to which no sequence has a request are requests, too: READY is false in them, the inputs are zeros,
 * they count as cancelled, and what they are answered with is dropped. */
typedef struct tkb_request {
  void* handle; /* the server's, for the functions below */
  const char* id;
  uint64_t correlation_id;
  const char* correlation_text; /* "" unless the sequence is named by a string */
  uint32_t flags;               /* TKB_SEQUENCE_* */
  uint64_t priority, timeout_us;
  int64_t rows; /* of each input, first axis; 0 when the model does not batch */
  const tkb_tensor* inputs;
  size_t num_inputs; /* in the config's order, then controls, then states; optional ones that the client left out are missing */
  const char* const* outputs;
  size_t num_outputs; /* asked for; never empty */
  const tkb_parameter* parameters;
  size_t num_parameters;
  const char* traceparent;
} tkb_request;

typedef struct tkb_response {
  const tkb_tensor* outputs; /* those asked for; others are dropped */
  size_t num_outputs;
  const tkb_parameter* parameters;
  size_t num_parameters;
  tkb_error* error; /* not NULL: the response is this error, which the server then owns */
  int is_final;     /* nonzero: the request must not be used after */
} tkb_response;

/* The server's functions. All may be called from any thread. */
typedef struct tkb_server {
  size_t size;
  uint32_t version;
  tkb_error* (*error)(tkb_code code, const char* message);
  void (*error_free)(tkb_error* error);
  /* level: 0 error, 1 warning, 2 info, 3 and up verbose. */
  void (*log)(int level, const char* message);
  /* Sends one response; those of one request from one thread at a time. */
  void (*respond)(const tkb_request* request, const tkb_response* response);
  int (*is_cancelled)(const tkb_request* request);
  /* call(context) runs once, on any thread, when the client no longer wants the request: at once if that was already, never after the final
   * response was sent. It must not respond itself. */
  void (*on_cancel)(const tkb_request* request, void (*call)(void* context), void* context);
  /* Copies input `input` of the requests one after the other to `target`, which has room for `capacity` bytes; BYTES of `target` are
   * tkb_bytes that refer to the requests. The number of bytes goes to *size. */
  tkb_error* (*gather)(const tkb_request* const* requests, size_t count, size_t input, void* target, size_t capacity, size_t* size);
  /* Within execute(): when the computation itself began and ended (CLOCK_MONOTONIC, ns). What is before is input time, what is after output
   * time. Not called: all of execute() was computation. */
  void (*report_compute)(const tkb_request* const* requests, size_t count, int64_t start_ns, int64_t end_ns);
  /* Within execute(), of a model with iterative_sequence: no final response yet, execute it again, with whatever else waits then. START and
   * END are off from now on; `states` are outputs that sequence_batching.state names, for the next execution. The request must not be used
   * after execute(). Not there in servers without sequence batching: see `size`. */
  tkb_error* (*reschedule)(const tkb_request* request, const tkb_tensor* states, size_t num_states);
} tkb_server;

typedef struct tkb_setting {
  const char* key;
  const char* value;
} tkb_setting;

/* Strings are valid during the call. */
typedef struct tkb_model_args {
  const char* name;
  int64_t version;
  const char* model_folder;    /* of all versions */
  const char* version_folder;  /* holds the model's file */
  const char* file_name;       /* default_model_filename, or "" */
  const char* config_json;     /* ModelConfig as JSON, fields named as in config.pbtxt */
  const tkb_setting* settings; /* --backend-config NAME,key=value */
  size_t num_settings;
  int complete; /* 0: the config is complete; describe() may be cheap then */
} tkb_model_args;

typedef struct tkb_instance_args {
  const char* name; /* "resnet_0_1" */
  int is_gpu;
  int gpu;   /* ordinal, when is_gpu */
  int index; /* of all instances of the model */
} tkb_instance_args;

/* The backend's functions. create_instance, execute and destroy_instance of one instance run on one thread, unless describe() says
 * any_thread; everything else on any. */
typedef struct tkb_backend {
  size_t size;
  uint32_t version;
  const char* name;
  tkb_error* (*load)(const tkb_model_args* args, tkb_model** model);
  void (*unload)(tkb_model* model); /* after its instances are destroyed */
  /* What the model says about itself, as JSON:
   *   inputs, outputs     [{name, data_type: "TYPE_FP32", shape: [-1, 3], optional}]; shapes with the batch axis where there is one
   *   can_batch           axis 0 of all of them means rows
   *   max_batch_size      optional
   *   decoupled           optional
   *   dynamic_batching    optional: its config, {} for the defaults
   *   any_thread          optional: true when execute() of an instance may run on any thread, one at a time
   *   sequence_tensors    optional: false when inputs and outputs leave out what sequence_batching names
   * The server takes from it what the config does not say, and refuses a config that contradicts it. Valid until unload(). NULL: the config
   * must say everything. */
  const char* (*describe)(tkb_model* model);
  tkb_error* (*create_instance)(tkb_model* model, const tkb_instance_args* args, tkb_instance** instance);
  void (*destroy_instance)(tkb_instance* instance);
  /* At most max_batch_size rows together, or one request when the model does not batch; all with the same inputs, of the same shapes but
   * for the first axis. An error is the answer to every request that has no final response yet. */
  tkb_error* (*execute)(tkb_instance* instance, const tkb_request* const* requests, size_t count);
  /* An object of the model by name, or NULL; for backends that are linked with the server. Valid until unload(). */
  void* (*find_interface)(tkb_model* model, const char* name);
} tkb_backend;

typedef const tkb_backend* (*tkb_entry)(const tkb_server* server);

#ifdef __cplusplus
}
#endif
#endif
