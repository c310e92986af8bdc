#pragma once
// The C++ API: build, load, run.
//
//   auto engine = tokamak::build_engine("model.onnx");           // or tokamak::Engine::load("model.engine")
//   engine->save("model.engine");
//   tokamak::ExecutionContext context(engine);
//   context.set_input("x", tokamak::Tensor::of<float>({1, 3}, {1, 2, 3}));
//   context.run();
//   const tokamak::Tensor& y = context.output("y");
//
// Errors are tokamak::Error. Engines are shared between threads; a context belongs to one thread at a time.

#include "base/tensor.h"
#include "builder/builder.h"
#include "runtime/engine.h"
#include "runtime/execution_context.h"
