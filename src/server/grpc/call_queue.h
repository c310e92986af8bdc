#pragma once
// Every call of the server on one completion queue, in raw messages. A thread that waits at the queue is the one that reads the sockets, so
// a request needs no other on its way; gRPC's callback API hands it from a reading thread to a calling one and the answer back to both.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace tokamak::server {

class CallQueue;

// What a call does when something happens. Called on the queue's threads, never from within a function of Call. Each is called by one
// thread at a time, but one may come while another runs; only on_done() is alone.
class CallHandler {
 public:
  virtual ~CallHandler() = default;
  virtual void on_start() = 0;        // first, but on_cancel() may come at once
  virtual void on_read(bool ok) = 0;  // false: the client sends no more
  virtual void on_write(bool ok) { (void)ok; }
  virtual void on_cancel() = 0;  // the client has gone, its deadline has passed, or the server stops; once
  virtual void on_done() {}      // after finish() and everything else; the last
};

// One call, which is there until its handler's on_done() returns.
class Call {
 public:
  const std::string& method() const { return context_.method(); }  // "/package.Service/Method"
  const grpc::ServerContextBase& context() const { return context_; }

  // From any thread; one read and one write at a time. After finish() only from within the handler, and then they fail. `message` lives
  // until on_read().
  void read(grpc::ByteBuffer* message);
  void write(const grpc::ByteBuffer& message);
  // Once, from any thread, for cancelled calls too. Reads may be left.
  void finish(const grpc::Status& status);
  void finish(const grpc::ByteBuffer& last_message);  // OK

  // The handler's thread will be away for so long that somebody should wait at the queue meanwhile.
  void stay_polled();

 private:
  friend class CallQueue;
  struct Tag {
    Call& call;
    void (Call::*happened)(bool ok);
    void run(bool ok) const { (call.*happened)(ok); }
  };
  explicit Call(CallQueue& queue);
  ~Call();
  void accepted(bool ok);
  void was_read(bool ok);
  void was_written(bool ok);
  void was_finished(bool);
  void has_ended(bool);
  void leave();  // may delete this

  CallQueue& queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_{&context_};
  std::shared_ptr<CallHandler> handler_;
  std::atomic<bool> has_handler_ = false;
  std::atomic<int> num_expected_ = 3;  // on_start(), the end of the call, finish(), and the reads and writes under way
  Tag accepted_{*this, &Call::accepted}, read_{*this, &Call::was_read}, written_{*this, &Call::was_written},
      finished_{*this, &Call::was_finished}, ended_{*this, &Call::has_ended};
};

// One thread at the queue is quickest: where there are two, gRPC has each wake the other for every event. So there are few, and a stand-in,
// which comes when all of them are held up: at once when they say so, else within two milliseconds.
class CallQueue {
 public:
  // Called for each call that comes, only to say whose it is.
  using Start = std::function<std::shared_ptr<CallHandler>(Call& call)>;
  explicit CallQueue(Start start) : start_(std::move(start)) {}
  ~CallQueue();  // stop()

  void add_to(grpc::ServerBuilder& builder);
  void run(int num_threads);  // when the server has started; the stand-in is one more
  void stop();                // when its Shutdown() has returned; waits until every call is done

 private:
  friend class Call;
  void accept_one();
  void poll();
  void stand_in();
  void wake_stand_in(bool polls);

  const Start start_;
  grpc::AsyncGenericService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::mutex mutex_;
  bool accepts_ = false;
  std::atomic<int> num_calls_ = 0;  // objects: those that wait for a client, too
  std::vector<std::thread> threads_;

  int num_pollers_ = 0;
  std::atomic<int> num_waiting_ = 0;      // of them, at the queue
  std::atomic<uint64_t> num_events_ = 0;  // that they are done with
  std::mutex stand_in_mutex_;
  std::condition_variable stand_in_wake_;
  bool is_stand_in_wanted_ = false, is_stopping_ = false;
  std::atomic<bool> is_stand_in_asleep_ = false;
};

}  // namespace tokamak::server
