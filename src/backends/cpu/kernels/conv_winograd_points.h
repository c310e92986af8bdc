#pragma once
// Interpolation points of F(4x4, 3x3), shared by the transforms and the packing of weights.

namespace tokamak::cpu {

// 0, +-a, +-b, infinity. Powers of two keep the constants exact.
inline constexpr double kWinogradA = 1.0;
inline constexpr double kWinogradB = 2.0;

}  // namespace tokamak::cpu
