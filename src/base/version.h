#pragma once

namespace tokamak {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace tokamak
