#include "server/held_wakes.h"

#include <gtest/gtest.h>

#include <thread>

#include "server/http/exchange.h"

namespace tokamak::server {
namespace {

TEST(HeldWakes, StreamsAreWokenOnceWhenItEnds) {
  int woken[2] = {};
  std::shared_ptr<http::Exchange> exchanges[2];
  for (int i = 0; i < 2; ++i) exchanges[i] = std::make_shared<http::Exchange>([&woken, i] { ++woken[i]; }, nullptr);
  {
    const HeldWakes outer;
    for (const auto& exchange : exchanges) {
      exchange->begin(200, {});
      exchange->write("a");
      exchange->write("b");
    }
    {
      const HeldWakes inner;
      exchanges[0]->end();
    }
    EXPECT_EQ(woken[0], 1) << "of the inner one";
    EXPECT_EQ(woken[1], 0);
    std::thread([&] { exchanges[1]->end(); }).join();
    EXPECT_EQ(woken[1], 1) << "other threads wake at once";
    exchanges[1]->detach();
  }
  EXPECT_EQ(woken[0], 2);
  EXPECT_EQ(woken[1], 1) << "it is detached";
  EXPECT_EQ(exchanges[0]->take().pieces.size(), 2u);
}

}  // namespace
}  // namespace tokamak::server
