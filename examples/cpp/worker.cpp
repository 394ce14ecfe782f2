// A worker in C++, from optimd.proto alone: it fits a plane to points by least squares, beside other workers.
//
//   worker [--job plane] [--worker cpp] [--rank 0] [--workers 1] [--steps 200] [HOST:PORT]
//
// The address is else that of OPTIMD_SERVER, else 127.0.0.1:50051. Worth taking over: create(), join() and deliver(),
// which gets a push to its one outcome through lost answers, servers that start again and leases that end.
// It is written for little-endian machines: the contract's bytes are those of its floats.
#include <grpcpp/grpcpp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "optimd/v1/optimd.grpc.pb.h"
#include "rpc.pb.h"

namespace pb = optimd::v1;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr int kPoints = 64, kFeatures = 5;
constexpr size_t kChunkBytes = 1 << 20;
constexpr Milliseconds kPatience = 60s;       // Without an answer for so long the worker gives up.
constexpr Milliseconds kCreateTimeout = 40s;  // Until the server says how long it holds a call that waits.
constexpr Milliseconds kMargin = 10s;         // Above that.

// AdamW under a cosine, with weight decay on the matrix alone.
pb::JobSpec specification(int workers, int64_t steps) {
  pb::JobSpec spec;
  auto* weight = spec.mutable_layout()->add_tensors();
  weight->set_name("weight");
  weight->add_shape(1);
  weight->add_shape(kFeatures);
  spec.mutable_layout()->add_tensors()->set_name("bias");
  auto* rule = spec.mutable_optimizer()->mutable_adamw();
  rule->set_weight_decay(0.001);
  auto* cosine = rule->mutable_lr()->mutable_cosine();
  cosine->set_lr_max(0.3);
  cosine->set_lr_min(0.001);
  cosine->set_steps(steps);
  auto* vectors = spec.add_groups();
  vectors->set_pattern("*");
  vectors->set_ndim_max(1);
  (*vectors->mutable_hyper_parameters())["weight_decay"] = 0;
  spec.mutable_consistency()->mutable_sync()->set_workers(workers);
  spec.set_steps_max(steps);
  return spec;
}

// Half the mean square over every workers-th point from rank on, and its gradient.
struct Computed {
  std::vector<float> gradient;
  double loss = 0, count = 0;
};

Computed compute(const std::vector<float>& p, int rank, int workers) {
  constexpr double truth[kFeatures] = {1, -2, 3, -4, 5};
  double sum[kFeatures + 1] = {};
  Computed all;
  for (int i = rank; i < kPoints; i += workers) {
    double x[kFeatures], y = 0.5;  // Numbers that a double holds exactly, so that every language computes the same.
    for (int j = 0; j < kFeatures; j++) {
      x[j] = ((i * (j + 3) + j * j) % 17 - 8) / 8.0;
      y += x[j] * truth[j];
    }
    double residual = p[kFeatures] - y;
    for (int j = 0; j < kFeatures; j++) residual += p[j] * x[j];
    for (int j = 0; j < kFeatures; j++) sum[j] += residual * x[j];
    sum[kFeatures] += residual;
    all.loss += residual * residual;
    all.count++;
  }
  for (double total : sum) all.gradient.push_back(static_cast<float>(total / all.count));
  all.loss = all.loss / all.count / 2;
  return all;
}

uint32_t crc32c(const std::string& data) {
  static const auto table = [] {
    std::array<uint32_t, 256> made;
    for (uint32_t byte = 0; byte < 256; byte++) {
      uint32_t crc = byte;
      for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
      made[byte] = crc;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 255] ^ crc >> 8;
  return ~crc;
}

template <typename T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string bytes_of(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

// See Layout in the contract, which has a value to check it with.
std::string digest_of(const pb::Layout& layout) {
  std::string all;
  for (const auto& tensor : layout.tensors()) {
    all += bytes_of<uint32_t>(tensor.name().size()) + tensor.name();
    all += bytes_of<uint8_t>(tensor.kind() == pb::TENSOR_KIND_BUFFER ? 2 : 1);
    all += bytes_of<uint32_t>(tensor.shape_size());
    for (int64_t dimension : tensor.shape()) all += bytes_of(dimension);
  }
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(all.data()), all.size(), reinterpret_cast<unsigned char*>(&digest[0]));
  return digest;
}

// A call that was refused, or lost. reason: empty where gRPC, a proxy or the deadline made the error.
struct Failure : std::runtime_error {
  explicit Failure(const grpc::Status& status) : std::runtime_error(status.error_message()), code(status.error_code()) {
    google::rpc::Status details;
    details.ParseFromString(status.error_details());  // The trailer grpc-status-details-bin.
    for (const auto& detail : details.details()) {
      google::rpc::ErrorInfo info;
      google::rpc::RetryInfo retry;
      if (detail.UnpackTo(&info)) reason = info.reason();
      if (detail.UnpackTo(&retry)) {
        delay = Milliseconds(retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1000000);
      }
    }
  }

  // The contract's retry rule.
  bool retriable() const {
    switch (code) {
      case grpc::StatusCode::UNAVAILABLE:
      case grpc::StatusCode::DATA_LOSS:
      case grpc::StatusCode::INTERNAL:
        return true;
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        return delay > 0ms;
      case grpc::StatusCode::UNIMPLEMENTED:
        return false;
      default:
        return reason.empty() || reason == "PUSH_SUPERSEDED";
    }
  }

  // Whether the epoch is over, or the server has never heard of it.
  bool no_member() const { return reason == "LEASE_EXPIRED" || reason == "NOT_JOINED"; }

  grpc::StatusCode code;
  std::string reason;
  Milliseconds delay = 0ms;
};

void check(const grpc::Status& status) {
  if (!status.ok()) throw Failure(status);
}

// Waits between two tries: longer each time, by chance, and as long as the server asks for.
class Retries {
 public:
  void wait(const Failure& failure) {
    if (Clock::now() - since_ > kPatience) throw failure;
    static std::mt19937 chance{std::random_device{}()};
    auto own = delay_ * std::uniform_real_distribution<>(0.5, 1.5)(chance);
    std::this_thread::sleep_for(failure.delay + own);
    delay_ = std::min(delay_ * 2, std::chrono::duration<double, std::milli>(2s));
  }

 private:
  Clock::time_point since_ = Clock::now();
  std::chrono::duration<double, std::milli> delay_ = 50ms;
};

// Renews a lease until it is destroyed. The next heartbeat makes up for one that is lost; whatever else is refused, the
// next push is told too.
class Heartbeats {
 public:
  Heartbeats(pb::WorkerService::Stub& calls, pb::HeartbeatRequest request, Milliseconds every)
      : thread_([this, &calls, request, every] {
          std::unique_lock<std::mutex> lock(mutex_);
          while (!wake_.wait_for(lock, every, [this] { return stopped_; })) {
            lock.unlock();
            grpc::ClientContext context;
            context.set_deadline(std::chrono::system_clock::now() + every);
            pb::HeartbeatResponse answer;
            grpc::Status status = calls.Heartbeat(&context, request, &answer);
            if (!status.ok() && Failure(status).no_member()) is_over = true;
            lock.lock();
          }
        }) {}

  ~Heartbeats() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  std::atomic<bool> is_over{false};  // The epoch, as a heartbeat was told.

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::thread thread_;  // Last: it uses the others.
};

class Worker {
 public:
  Worker(const std::shared_ptr<grpc::Channel>& channel, std::string job, std::string name, const pb::JobSpec& spec)
      : jobs_(pb::JobService::NewStub(channel)), calls_(pb::WorkerService::NewStub(channel)), job_(std::move(job)),
        name_(std::move(name)), spec_(spec), digest_(digest_of(spec.layout())) {}

  // Makes the job or finds it: one caller uploads, the others wait until it has.
  void create(const std::string& initial) {
    pb::CreateJobRequest request;
    request.set_job(job_);
    request.set_worker(name_);
    *request.mutable_spec() = spec_;
    for (Retries retries;; request.set_again(true)) {
      pb::CreateJobResponse answer;
      again([&](grpc::ClientContext& context) { check(jobs_->CreateJob(&context, request, &answer)); });
      timeout_ = Milliseconds(answer.limits().wait_ms_max()) + kMargin;
      if (answer.disposition() == pb::CREATE_DISPOSITION_READY) return;
      if (answer.disposition() == pb::CREATE_DISPOSITION_WAIT) continue;
      try {
        return upload(answer.upload_token(), initial);
      } catch (const Failure& failure) {
        if (failure.reason != "NOT_UPLOADER" && !failure.retriable()) throw;
        retries.wait(failure);
      }
    }
  }

  // Takes a fresh epoch, whose pushes are numbered from 1, and keeps its lease.
  void join() {
    heartbeats_.reset();
    pb::JoinRequest request;
    request.set_job(job_);
    request.set_worker(name_);
    request.set_layout_digest(digest_);
    pb::JoinResponse answer;
    again([&](grpc::ClientContext& context) { check(calls_->Join(&context, request, &answer)); });
    epoch_ = answer.epoch();
    seq_ = 1;
    std::cerr << "joined " << job_ << " as " << name_ << ", epoch " << epoch_ << std::endl;
    Milliseconds every(answer.lease_ms() / 3);
    heartbeats_ = std::make_unique<Heartbeats>(*calls_, of_epoch<pb::HeartbeatRequest>(), every);
  }

  std::pair<pb::Version, std::vector<float>> pull() {
    pb::PullRequest request;
    request.set_job(job_);
    pb::Version version;
    std::string data;
    again([&](grpc::ClientContext& context) {
      auto stream = calls_->Pull(&context, request);
      data.clear();
      for (pb::PullResponse answer; stream->Read(&answer);) {
        if (answer.has_parameters()) version = answer.parameters().version();
        if (crc32c(answer.data()) != answer.crc32c()) {
          throw Failure({grpc::StatusCode::DATA_LOSS, "a chunk of parameters differs from its checksum"});
        }
        data += answer.data();
      }
      check(stream->Finish());
    });
    std::vector<float> parameters(data.size() / sizeof(float));
    std::memcpy(parameters.data(), data.data(), data.size());
    return {version, parameters};
  }

  // Sends a gradient and returns its outcome, with whether the job is finished. It sends again only what surely was not
  // taken: under the same seq, or, once its epoch is over, under a new one.
  pb::AwaitOutcomeResponse deliver(pb::PushHeader header, const std::string& data) {
    header.set_job(job_);
    header.set_worker(name_);
    header.set_layout_digest(digest_);
    header.set_payload_bytes(data.size());
    Retries retries;
    for (int attempt = 1;; attempt++) {
      header.set_epoch(epoch_);
      header.set_seq(seq_);
      header.set_attempt(attempt);
      std::optional<Failure> failure;
      try {
        pb::PushResponse answer = push(header, data);
        if (answer.state() == pb::PUSH_STATE_DONE) {
          seq_++;
          pb::AwaitOutcomeResponse known;
          *known.mutable_outcome() = answer.outcome();
          known.set_finished(answer.finished());
          return known;
        }
      } catch (const Failure& error) {
        if (!error.retriable() && !error.no_member()) throw;
        failure = error;
      }
      if (auto known = await(header)) {
        if (epoch_ == header.epoch()) seq_++;
        return *known;
      }
      if (failure) retries.wait(*failure);
      if (failure && failure->no_member() && epoch_ == header.epoch()) join();
    }
  }

  // Does not insist: the lease ends by itself.
  void leave(bool failed) {
    heartbeats_.reset();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 2s);
    auto request = of_epoch<pb::LeaveRequest>();
    request.set_failed(failed);
    pb::LeaveResponse answer;
    calls_->Leave(&context, request, &answer);
  }

 private:
  // What became of a push; nothing if it was never taken. Its round may need one more live worker to close: if the
  // lease ends meanwhile the worker joins again, and goes on asking under the old epoch.
  std::optional<pb::AwaitOutcomeResponse> await(const pb::PushHeader& header) {
    auto request = of_epoch<pb::AwaitOutcomeRequest>();
    request.set_seq(header.seq());
    for (;;) {
      pb::AwaitOutcomeResponse answer;
      try {
        again([&](grpc::ClientContext& context) { check(calls_->AwaitOutcome(&context, request, &answer)); });
      } catch (const Failure& failure) {
        if (failure.no_member()) return {};  // The server remembers nothing of the epoch: it took nothing that lasts.
        throw;
      }
      if (answer.state() == pb::PUSH_STATE_DONE) return answer;
      if (answer.state() == pb::PUSH_STATE_UNKNOWN) return {};
      if (epoch_ == header.epoch() && heartbeats_->is_over) join();
    }
  }

  void upload(int64_t token, const std::string& data) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout_);
    pb::UploadParametersResponse answer;
    auto stream = jobs_->UploadParameters(&context, &answer);
    pb::UploadParametersRequest request;
    request.mutable_header()->set_job(job_);
    request.mutable_header()->set_upload_token(token);
    request.mutable_header()->set_payload_bytes(data.size());
    request.mutable_header()->set_layout_digest(digest_);
    send(*stream, request, data);
    check(stream->Finish());
  }

  pb::PushResponse push(const pb::PushHeader& header, const std::string& data) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout_);
    pb::PushResponse answer;
    auto stream = calls_->Push(&context, &answer);
    pb::PushRequest request;
    *request.mutable_header() = header;
    send(*stream, request, data);
    check(stream->Finish());
    return answer;
  }

  // In chunks, the header in the first. A write fails where the server has answered already: the answer says why.
  template <typename Stream, typename Request>
  void send(Stream& stream, Request& request, const std::string& data) {
    for (size_t offset = 0; offset < data.size(); offset += kChunkBytes) {
      request.set_offset_bytes(offset);
      request.set_data(data.substr(offset, kChunkBytes));
      request.set_crc32c(crc32c(request.data()));
      if (!stream.Write(request)) return;
      request.clear_header();
    }
    stream.WritesDone();
  }

  // Repeats a call that may be repeated until it is answered or refused for good.
  void again(const std::function<void(grpc::ClientContext&)>& call) {
    for (Retries retries;;) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + timeout_);
      try {
        return call(context);
      } catch (const Failure& failure) {
        if (!failure.retriable()) throw;
        retries.wait(failure);
      }
    }
  }

  template <typename Request>
  Request of_epoch() {
    Request request;
    request.set_job(job_);
    request.set_worker(name_);
    request.set_epoch(epoch_);
    return request;
  }

  std::unique_ptr<pb::JobService::Stub> jobs_;
  std::unique_ptr<pb::WorkerService::Stub> calls_;
  std::string job_, name_;
  pb::JobSpec spec_;
  std::string digest_;
  Milliseconds timeout_ = kCreateTimeout;  // Of a call that the server may hold.
  int64_t epoch_ = 0, seq_ = 1;            // seq_: of the next push.
  std::unique_ptr<Heartbeats> heartbeats_;
};

// Pulls, computes and pushes until the job is finished, and prints what came of it.
void train(Worker& worker, int rank, int workers) {
  int applied = 0;
  for (bool finished = false; !finished;) {
    auto [version, parameters] = worker.pull();
    Computed mine = compute(parameters, rank, workers);
    pb::PushHeader header;
    *header.mutable_base_version() = version;
    header.set_weight(mine.count);
    header.set_loss(mine.loss);
    pb::AwaitOutcomeResponse known = worker.deliver(header, bytes_of(mine.gradient));
    const auto& outcome = known.outcome();
    if (outcome.status() == pb::OUTCOME_STATUS_APPLIED) {
      applied++;
    } else {
      std::cerr << outcome.ShortDebugString() << std::endl;
    }
    finished = known.finished();
  }
  auto [version, parameters] = worker.pull();
  std::printf("{\"applied\": %d, \"step\": %lld, \"loss\": %.17g, \"parameters\": [", applied,
              static_cast<long long>(version.step()), compute(parameters, 0, 1).loss);
  for (size_t j = 0; j < parameters.size(); j++) std::printf(j ? ", %.9g" : "%.9g", parameters[j]);
  std::printf("]}\n");
}

int main(int count, char** given) {
  const char* server = std::getenv("OPTIMD_SERVER");
  std::string address = server && *server ? server : "127.0.0.1:50051";
  std::map<std::string, std::string> options = {
      {"--job", "plane"}, {"--worker", "cpp"}, {"--rank", "0"}, {"--workers", "1"}, {"--steps", "200"}};
  for (int i = 1; i < count; i++) {
    if (options.count(given[i]) && i + 1 < count) {
      options[given[i]] = given[i + 1];
      i++;
    } else {
      address = given[i];
    }
  }
  int rank = std::stoi(options["--rank"]), workers = std::stoi(options["--workers"]);
  // A server that starts again is found within a second; by default it may take two minutes.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  Worker worker(channel, options["--job"], options["--worker"], specification(workers, std::stoll(options["--steps"])));
  try {
    worker.create(bytes_of(std::vector<float>(kFeatures + 1)));
    worker.join();
    try {
      train(worker, rank, workers);
    } catch (const Failure&) {
      worker.leave(true);
      throw;
    }
    worker.leave(false);
  } catch (const Failure& failure) {
    std::cerr << failure.reason << " " << failure.what() << std::endl;
    return 1;
  }
}
