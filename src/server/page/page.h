#pragma once
// The live page: one file of HTML without outside assets, which reads /metrics and the repository index as any client could.

#include "server/http/http.h"

namespace tokamak::server {

// GET /.
void add_page_route(http::Server& server);

}  // namespace tokamak::server
