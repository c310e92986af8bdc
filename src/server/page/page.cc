#include "server/page/page.h"

#include "server/page/page_files.h"

namespace tokamak::server {

void add_page_route(http::Server& server) {
  server.route("GET", "/", [](auto, auto responder) {
    // Scripts and styles are in the page, and it asks nobody but this server.
    responder->send({.headers = {{"Content-Type", "text/html; charset=utf-8"},
                                 {"Cache-Control", "no-cache"},
                                 {"Content-Security-Policy",
                                  "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"}},
                     .body = page_files().at("index.html")});
  });
}

}  // namespace tokamak::server
