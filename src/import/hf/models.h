#pragma once
// An architecture: its names, how its config.json is read, and its graph. One file each; all_models.inc lists them.

#include <span>
#include <string_view>

#include "import/hf/decoder.h"

namespace tokamak::hf {

struct ModelDef {
  std::string_view architecture;  // in config.json's architectures
  std::string_view model_type;    // in config.json's model_type, for files without architectures
  ModelConfig (*configure)(const JsonObject& json, const Json* generation);
  void (*build)(Decoder& d);
};

std::span<const ModelDef> all_models();

// The graph of an opened checkpoint.
std::unique_ptr<ir::Graph> import_from(Checkpoint& checkpoint, const HfOptions& options);

namespace models {
#define MODEL(name) ModelDef name();
#include "import/hf/all_models.inc"
#undef MODEL
}  // namespace models

}  // namespace tokamak::hf
