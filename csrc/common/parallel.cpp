#include "common/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace pydream {
namespace {

struct Job {
  int64_t count;
  int64_t grain;
  const std::function<void(int64_t, int64_t)>* body;
  std::atomic<int64_t> next{0};
  std::atomic<int> wanted;  // helpers that may still join
  int running = 0;          // helpers inside; guarded by the pool's mutex
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain);
      if (begin >= count) return;
      try {
        (*body)(begin, std::min(begin + grain, count));
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
        next.store(count);
      }
    }
  }
};

thread_local bool inside_body = false;

// Grows to the largest number of helpers ever asked for. It is never destroyed:
// its threads sleep until the process ends.
class Pool {
 public:
  void run(Job& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(size_) < helpers) {
        std::thread([this] { loop(); }).detach();
        ++size_;
      }
      job.wanted = helpers;
      jobs_.push_back(&job);
    }
    wake_.notify_all();
    inside_body = true;
    job.work();
    inside_body = false;
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
    done_.wait(lock, [&] { return job.running == 0; });
  }

 private:
  void loop() {
    inside_body = true;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      for (Job* each : jobs_) {
        if (each->wanted > 0 && each->next.load() < each->count) {
          job = each;
          break;
        }
      }
      if (job == nullptr) {
        wake_.wait(lock);
        continue;
      }
      --job->wanted;
      ++job->running;
      lock.unlock();
      job->work();
      lock.lock();
      if (--job->running == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<Job*> jobs_;
  size_t size_ = 0;
};

std::atomic<Pool*> pool_of_process{nullptr};

// A forked child has none of its parent's threads: it starts with a pool of its own.
Pool& pool() {
  static std::mutex creation;
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool_of_process = nullptr; });
  (void)registered;
  Pool* existing = pool_of_process.load();
  if (existing != nullptr) return *existing;
  std::lock_guard<std::mutex> lock(creation);
  if (pool_of_process.load() == nullptr) pool_of_process = new Pool;
  return *pool_of_process.load();
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t pieces = (count + grain - 1) / grain;
  const int helpers = static_cast<int>(std::min<int64_t>(threads, pieces)) - 1;
  if (helpers <= 0 || inside_body) {
    body(0, count);
    return;
  }
  Job job;
  job.count = count;
  job.grain = grain;
  job.body = &body;
  job.wanted = 0;
  pool().run(job, helpers);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace pydream
