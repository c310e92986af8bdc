// The HTTP server against clients that send what they like.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>

#include "server/http/client.h"
#include "server/http/compression.h"
#include "server/http/http.h"
#include "tests/server/http/raw_client.h"

namespace tokamak::server::http {
namespace {

using namespace std::chrono_literals;

class HttpServer : public testing::Test {
 protected:
  void start(ServerOptions options = {}) {
    options.address = "127.0.0.1";
    options.port = 0;
    server_ = std::make_unique<Server>(std::move(options));
    server_->route("POST", "/echo", [](auto request, auto responder) { responder->send({.body = std::string(request->text())}); });
    server_->route("GET", "/items/{}/parts/{}", [](auto request, auto responder) {
      responder->send({.body = request->captures[0] + "|" + request->captures[1] + "|" + request->query});
    });
    server_->route("GET", "/fails", [](auto, auto) { fail(ErrorCode::Unavailable, "not \"now\""); });
    server_->route("GET", "/dropped", [](auto, auto) {});
    server_->route("GET", "/large", [](auto, auto responder) { responder->send({.body = std::string(5'000'000, 'x')}); });
    server_->route("GET", "/stream", [this](auto, auto responder) {
      responder->begin(200, {{"Content-Type", "text/event-stream"}});
      responder->on_disconnect([this] { ++disconnects_; });
      std::thread([responder, this] {
        for (int i = 0; i < 200 && disconnects_ == 0; ++i) {
          responder->write("data: " + std::to_string(i) + "\n\n");
          std::this_thread::sleep_for(5ms);
          if (i == 4 && short_stream_) break;
        }
        responder->end();
        ++streams_ended_;
      }).detach();
    });
    server_->route("GET", "/later/{}", [](auto request, auto responder) {
      std::thread([responder, size = std::stoul(request->captures[0])] {
        // Behind the body, as tensors are.
        auto piece = std::make_shared<std::vector<std::byte>>(size / 2, std::byte{'y'});
        Response response{.body = std::string(size - size / 2, 'x')};
        const std::span<const std::byte> view(*piece);
        response.pieces.emplace_back(std::move(piece), view);
        responder->send(std::move(response));
      }).detach();
    });
    server_->route("GET", "/slow", [this](auto, auto responder) {
      responder->on_disconnect([this, responder] {
        ++disconnects_;
        responder->send({.status = 499, .body = "cancelled"});
      });
      waiting_ = responder;
      is_waiting_ = true;
    });
    server_->start();
  }
  RawClient client() { return RawClient(server_->port()); }
  std::string ask(std::string_view text) {
    RawClient c(server_->port());
    c.send(text);
    return c.read_answer();
  }
  bool eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 1000 && !holds(); ++i) std::this_thread::sleep_for(5ms);
    return holds();
  }
  void TearDown() override {
    waiting_ = nullptr;
    if (server_) server_->stop(2);
    server_ = nullptr;
    eventually([&] { return true; });
  }

  std::unique_ptr<Server> server_;
  std::atomic<int> disconnects_ = 0, streams_ended_ = 0;
  std::atomic<bool> short_stream_ = true, is_waiting_ = false;
  std::shared_ptr<Responder> waiting_;
};

TEST_F(HttpServer, EchoesAndKeepsTheConnection) {
  start();
  RawClient c(server_->port());
  for (int i = 0; i < 3; ++i) {
    c.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    c.send("lo");
    const std::string answer = c.read_answer();
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
    EXPECT_TRUE(answer.ends_with("\r\n\r\nhello")) << answer;
  }
}

TEST_F(HttpServer, RequestsSentTogetherAreAnsweredInOrder) {
  start();
  RawClient c(server_->port());
  c.send(
      "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\naPOST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nbPOST /echo "
      "HTTP/1.1\r\nContent-Length: 1\r\n\r\nc");
  EXPECT_TRUE(c.read_answer().ends_with("\r\n\r\na"));
  EXPECT_TRUE(c.read_answer().ends_with("\r\n\r\nb"));
  EXPECT_TRUE(c.read_answer().ends_with("\r\n\r\nc"));
}

TEST_F(HttpServer, CapturesAreDecodedAndSlashesInThemDoNotSplit) {
  start();
  EXPECT_TRUE(ask("GET /items/a%2Fb/parts/%E2%82%AC?q=1%20 HTTP/1.1\r\n\r\n").ends_with("\r\n\r\na/b|\xE2\x82\xAC|q=1%20"));
}

TEST_F(HttpServer, ErrorsSayWhatIsWrong) {
  start();
  EXPECT_TRUE(ask("GET /nowhere HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
  const std::string method = ask("GET /echo HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(method.starts_with("HTTP/1.1 405 ")) << method;
  EXPECT_NE(method.find("Allow: POST\r\n"), std::string::npos);
  const std::string thrown = ask("GET /fails HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(thrown.starts_with("HTTP/1.1 503 "));
  EXPECT_TRUE(thrown.ends_with(R"({"error":"not \"now\""})")) << thrown;
  EXPECT_TRUE(ask("GET /dropped HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 500 "));
  EXPECT_TRUE(ask("what is this\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nok").ends_with("ok")) << "the server is still there";
}

TEST_F(HttpServer, BodiesAndHeadersAreBounded) {
  start({.max_body_bytes = 1000, .max_header_bytes = 2000});
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n").starts_with("HTTP/1.1 413 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + std::string(1001, 'a') + "\r\n0\r\n\r\n")
                  .starts_with("HTTP/1.1 413 "));
  EXPECT_TRUE(ask("GET /" + std::string(3000, 'a') + " HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 431 "));
  // A small body that unpacks to a large one.
  const std::string zeros(1 << 20, '\0');
  const std::span<const std::byte> piece = std::as_bytes(std::span(zeros));
  const std::string packed = compress("gzip", {&piece, 1});
  ASSERT_LT(packed.size(), 5000u);
  RawClient c(server_->port());
  const std::string body = packed.substr(0, 900);
  c.send("POST /echo HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_TRUE(c.read_answer().starts_with("HTTP/1.1 413 "));
}

TEST_F(HttpServer, ChunkedBodies) {
  start();
  EXPECT_TRUE(
      ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n").ends_with("\r\n\r\nabcdefg"));
}

TEST_F(HttpServer, CompressionBothWays) {
  start();
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i * 7919 % 1000) + ' ';
  const std::span<const std::byte> piece = std::as_bytes(std::span(text));
  for (const char* encoding : {"gzip", "deflate"}) {
    const std::string packed = compress(encoding, {&piece, 1});
    const std::string answer =
        ask("POST /echo HTTP/1.1\r\nAccept-Encoding: " + std::string(encoding) + "\r\nContent-Encoding: " + encoding +
            "\r\nContent-Length: " + std::to_string(packed.size()) + "\r\n\r\n" + packed);
    ASSERT_NE(answer.find("Content-Encoding: " + std::string(encoding)), std::string::npos) << answer.substr(0, 300);
    const std::string body = answer.substr(answer.find("\r\n\r\n") + 4);
    const auto plain = decompress(encoding, std::as_bytes(std::span(body)), 1 << 24);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(plain.data()), plain.size()), text);
    EXPECT_THROW((void)decompress(encoding, std::as_bytes(std::span(body)).first(body.size() / 2), 1 << 24), Error);
  }
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 415 "));
  EXPECT_EQ(accepted_encoding("br, gzip;q=0.5, deflate;q=0.8"), "deflate");
  EXPECT_EQ(accepted_encoding("gzip;q=0, br"), "");
}

TEST_F(HttpServer, StreamsArriveAsTheyAreWritten) {
  start();
  RawClient c(server_->port());
  c.send("GET /stream HTTP/1.1\r\n\r\n");
  EXPECT_NE(c.read_until("\r\n\r\n").find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_EQ(c.read_until("data: 0\n\n\r\n"), "9\r\ndata: 0\n\n\r\n");
  EXPECT_TRUE(c.read_until("0\r\n\r\n").ends_with("data: 4\n\n\r\n0\r\n\r\n"));
  c.send("POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_TRUE(c.read_answer().ends_with("x")) << "the connection is good for another request";
}

TEST_F(HttpServer, AStreamsClientThatLeavesIsNoticed) {
  start();
  short_stream_ = false;
  RawClient c(server_->port());
  c.send("GET /stream HTTP/1.1\r\n\r\n");
  (void)c.read_until("data: 2");
  c.close();
  EXPECT_TRUE(eventually([&] { return streams_ended_ == 1; }));
  EXPECT_EQ(disconnects_, 1);
}

TEST_F(HttpServer, AWaitingClientThatLeavesIsNoticed) {
  start();
  RawClient c(server_->port());
  c.send("GET /slow HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return is_waiting_.load(); }));
  EXPECT_EQ(disconnects_, 0);
  c.close();
  EXPECT_TRUE(eventually([&] { return disconnects_ == 1; }));
}

TEST_F(HttpServer, AHalfClosedClientGetsTheAnswerOfItsHandler) {
  start();
  RawClient c(server_->port());
  c.send("GET /slow HTTP/1.1\r\n\r\n");
  c.finish_sending();
  EXPECT_TRUE(c.read_answer().starts_with("HTTP/1.1 499 "));
  RawClient d(server_->port());
  d.send("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi");
  d.finish_sending();
  EXPECT_TRUE(d.read_answer().ends_with("hi"));
}

TEST_F(HttpServer, SlowClientsAreClosedAndOthersServed) {
  start({.header_timeout_s = 1, .body_timeout_s = 1, .idle_timeout_s = 1});
  RawClient header(server_->port()), body(server_->port()), idle(server_->port());
  header.send("GET /ec");
  body.send("POST /echo HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc");
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").ends_with("x"));
  EXPECT_TRUE(header.is_closed(5000));
  EXPECT_TRUE(body.is_closed(5000));
  EXPECT_TRUE(idle.is_closed(5000));
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpServer, LargeAnswersToClientsThatDoNotRead) {
  start({.body_timeout_s = 1});
  RawClient c(server_->port());
  for (int i = 0; i < 8; ++i) c.send("GET /large HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").ends_with("x"));
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; })) << "one that takes nothing is closed";
}

TEST_F(HttpServer, WhatOtherThreadsAnswerComesWholeAndInOrder) {
  start();
  RawClient c(server_->port());
  const size_t sizes[] = {10, 4'000'000, 0, 1, 2'000'001, 7};  // some that a socket does not take at once
  for (const size_t size : sizes) c.send("GET /later/" + std::to_string(size) + " HTTP/1.1\r\n\r\n");
  for (const size_t size : sizes) {
    const std::string answer = c.read_answer(10'000);
    const size_t head = answer.find("\r\n\r\n") + 4;
    ASSERT_EQ(answer.size() - head, size);
    EXPECT_EQ(std::count(answer.begin() + static_cast<int64_t>(head), answer.end(), 'y'), static_cast<int64_t>(size / 2));
  }
  c.send("HEAD /later/100 HTTP/1.1\r\n\r\nGET /later/3 HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(c.read_until("\r\n\r\n").find("Content-Length: 100\r\n"), std::string::npos);
  EXPECT_TRUE(c.read_answer().ends_with("xxy"));
  EXPECT_TRUE(c.is_closed());
}

TEST_F(HttpServer, ClientsThatLeaveWhileOtherThreadsAnswer) {
  start();
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        RawClient c(server_->port());
        c.send(i % 3 == 0 ? "GET /later/3000000 HTTP/1.1\r\n\r\n" : "GET /later/8 HTTP/1.1\r\n\r\n");
        if (i % 2 == t % 2) c.read_until("\r\n", 100);
      }
    });
  for (std::thread& client : clients) client.join();
  RawClient last(server_->port());
  last.send("GET /later/3000000 HTTP/1.1\r\n\r\n");
  server_->stop(0);  // whether or not that one is being written
}

TEST_F(HttpServer, ManyIdleConnections) {
  rlimit files = {};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const int count = static_cast<int>(std::min<rlim_t>(10'000, files.rlim_max / 2 - 100));
  start();
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < count; ++i) clients.push_back(std::make_unique<RawClient>(server_->port()));
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == count; })) << server_->num_connections();
  for (int i = 0; i < 100; ++i) {
    RawClient& c = *clients[i * 7919 % count];
    c.send("POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nx");
    EXPECT_TRUE(c.read_answer().ends_with("x"));
  }
}

TEST_F(HttpServer, MoreConnectionsThanAllowedAreTurnedAway) {
  start({.max_connections = 2});
  RawClient a(server_->port()), b(server_->port());
  ASSERT_TRUE(eventually([&] { return server_->num_connections() == 2; }));
  RawClient c(server_->port());
  EXPECT_TRUE(c.read_answer().starts_with("HTTP/1.1 503 "));
  a.close();
  ASSERT_TRUE(eventually([&] { return server_->num_connections() == 1; }));
  EXPECT_TRUE(ask("POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\nx").ends_with("x"));
}

TEST_F(HttpServer, StoppingLetsAnswersInProgressFinish) {
  start();
  RawClient c(server_->port()), idle(server_->port());
  c.send("GET /slow HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return is_waiting_.load(); }));
  std::thread stop([&] { server_->stop(5); });
  EXPECT_TRUE(idle.is_closed());
  EXPECT_THROW(RawClient(server_->port()), Error);
  waiting_->send({.body = "done"});
  EXPECT_TRUE(c.read_answer().ends_with("done"));
  stop.join();
}

TEST_F(HttpServer, FiltersRefuse) {
  ServerOptions options{.address = "127.0.0.1", .port = 0};
  server_ = std::make_unique<Server>(options);
  server_->set_filter([](const Request& request) -> std::optional<Response> {
    if (request.header("authorization") == "Bearer key") return std::nullopt;
    return Response{.status = 401, .body = "no"};
  });
  server_->route("GET", "/", [](auto, auto responder) { responder->send({.body = "yes"}); });
  server_->start();
  EXPECT_TRUE(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 401 "));
  EXPECT_TRUE(ask("GET / HTTP/1.1\r\nAuthorization: Bearer key\r\n\r\n").ends_with("yes"));
}

TEST_F(HttpServer, TheClientOfTheLoadGeneratorReusesConnections) {
  start();
  const Url url = parse_url("http://127.0.0.1:" + std::to_string(server_->port()));
  Client client(url, 5s);
  int done = 0, pieces = 0;
  std::function<void()> next = [&] {
    client.send({.method = "POST", .target = "/echo", .body = "abc"}, {.on_piece =
                                                                           [&](int status, std::string_view piece) {
                                                                             EXPECT_EQ(status, 200);
                                                                             EXPECT_EQ(piece, "abc");
                                                                             ++pieces;
                                                                           },
                                                                       .on_end =
                                                                           [&](ClientResult result) {
                                                                             EXPECT_EQ(result.error, "");
                                                                             if (++done < 50) next();
                                                                           }});
  };
  next();
  client.run();
  EXPECT_EQ(done, 50);
  EXPECT_EQ(pieces, 50);
  EXPECT_EQ(server_->num_connections(), 1);
  server_->stop(0);
  EXPECT_THROW((void)fetch(url, {.target = "/"}, 1s), Error);
}

}  // namespace
}  // namespace tokamak::server::http
