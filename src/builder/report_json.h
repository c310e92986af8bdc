#pragma once
// The part of a build report that an engine keeps, as JSON: no durations of this particular build, so that engines stay reproducible.

#include <string>

#include "builder/builder.h"

namespace tokamak {

std::string report_json(const BuildReport& report);

}  // namespace tokamak
