#include "common/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace pydream {
namespace {

// Time that a thread polls before it sleeps. Waking a thread takes 20 to 100 us, as long as a small
// kernel; in a row of calls, the helpers are still awake.
constexpr std::chrono::microseconds kPatience{200};

// Polls until `ready` or out of patience, yielding the processor meanwhile.
template <class Ready>
void await(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

struct Job {
  int64_t count;
  int64_t grain;
  const std::function<void(int64_t, int64_t)>* body;
  std::atomic<int64_t> next{0};
  int wanted = 0;               // helpers that may still join; guarded by the pool's mutex
  std::atomic<int> running{0};  // helpers inside; changed under the pool's mutex
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

// Grows to the largest number of helpers ever requested. It is never destroyed: its threads sleep
// until the process ends.
class Pool {
 public:
  void run(Job& job, int helpers) {
    int asleep;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(helpers);
      job.wanted = std::min(helpers, size_);
      jobs_.push_back(&job);
      ++submitted_;
      asleep = std::min(sleeping_, helpers - looking_);
    }
    for (int helper = 0; helper < asleep; ++helper) wake_.notify_one();
    inside_body = true;
    job.work();
    inside_body = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.erase(std::find(jobs_.begin(), jobs_.end(), &job));
    }
    const auto finished = [&] { return job.running == 0; };
    await(finished);
    if (finished()) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
  }

 private:
  // If the system grants no more threads, the existing ones do the work.
  void grow(int helpers) {
    try {
      while (size_ < helpers) {
        std::thread([this] { loop(); }).detach();
        ++size_;
      }
    } catch (const std::system_error&) {
    }
  }

  void loop() {
    inside_body = true;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = open_job();
      if (job == nullptr) {
        look(lock);
        job = open_job();
      }
      if (job == nullptr) {
        ++sleeping_;
        wake_.wait(lock);
        --sleeping_;
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

  Job* open_job() const {
    for (Job* job : jobs_) {
      if (job->wanted > 0 && job->next.load() < job->count) return job;
    }
    return nullptr;
  }

  // Waits briefly for another job, without the lock.
  void look(std::unique_lock<std::mutex>& lock) {
    const uint64_t seen = submitted_;
    ++looking_;
    lock.unlock();
    await([&] { return submitted_ != seen; });
    lock.lock();
    --looking_;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<Job*> jobs_;
  std::atomic<uint64_t> submitted_{0};  // jobs so far; changed under the mutex
  int size_ = 0;                        // number of helpers
  int sleeping_ = 0;                    // helpers asleep, which must be woken
  int looking_ = 0;                     // helpers polling, which see a new job by themselves
};

std::atomic<Pool*> pool_of_process{nullptr};
std::atomic<bool> forked{false};

// A forked child has none of its parent's threads, so it starts with a new pool. No lock guards the
// creation of a pool, because another thread might hold it at the time of the fork.
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  pool_of_process = nullptr;
  forked = true;
});

Pool& pool() {
  Pool* existing = pool_of_process.load();
  if (existing != nullptr) return *existing;
  Pool* fresh = new Pool;
  if (pool_of_process.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

// The compiled form of "#pragma omp parallel": function(data) on this many threads.
using Team = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// The OpenMP threads of torch, if torch is loaded and has any. After an operation they spin for
// some milliseconds, each on its own processor; other threads would have to share the processors
// with them, and take 1.5 to 2 times as long.
Team team_of_torch() {
  static const Team team = [] {
    void* torch = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY);
    return torch == nullptr ? nullptr : reinterpret_cast<Team>(dlsym(torch, "GOMP_parallel"));
  }();
  return team;
}

const std::thread::id main_thread = std::this_thread::get_id();  // the thread that loads the module

void run_on(Team team, Job& job, int threads) {
  const auto work = [](void* data) {
    const bool before = inside_body;
    inside_body = true;
    static_cast<Job*>(data)->work();
    inside_body = before;
  };
  team(work, &job, static_cast<unsigned>(threads), 0);
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
  // Every thread but the main one would create another team; a child's teams are its parent's.
  const bool shares = std::this_thread::get_id() == main_thread && !forked;
  const Team team = shares ? team_of_torch() : nullptr;
  if (team != nullptr) {
    run_on(team, job, threads);  // always torch's number: changing it costs threads
  } else {
    pool().run(job, helpers);
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace pydream
