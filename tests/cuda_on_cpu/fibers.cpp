// The fibers behind include/common/launch.h. For x86-64: switching stacks by hand takes a
// fiftieth of swapcontext's time, of which AddressSanitizer takes most for clearing its shadow.
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "common/launch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

// Keeps the registers that a call must keep on this stack, and goes on where `to` was left.
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

namespace cuda_on_cpu {
namespace {

constexpr size_t kStack = 128 * 1024;
constexpr int kKept = 6;  // registers kept by a switch
constexpr unsigned kWarp = 32;

enum class State { ready, barrier, warp, done };

// An asynchronous copy that has not been waited for.
struct Copy {
  void* to;
  unsigned char bytes[kCopied];
  unsigned group;
};

struct Fiber {
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* place = nullptr;       // where its stack was left
  void* fake_stack = nullptr;  // AddressSanitizer's, while the fiber waits
  State state = State::done;
  dim3 index;
  unsigned mask = 0;                        // of the warp operation it waits in
  unsigned exchanges = 0;                   // made so far
  uint64_t slots[2];                        // given away in the last two
  unsigned gifts = 0;                       // given to the warp so far
  alignas(8) unsigned char gift[2][kGift];  // the last two
  std::vector<Copy> copies;
  unsigned groups = 0;  // of copies, closed so far
};

struct Scheduler {
  void* place = nullptr;
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  size_t stack_size = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<unsigned> turns;
  unsigned count = 0;
  unsigned current = 0;
  const std::function<void()>* thread = nullptr;
  std::unique_ptr<unsigned char[]> shared;
  size_t shared_size = 0;
  std::exception_ptr error;  // that a thread has thrown
  Order order = Order::forward;
  std::mt19937 random{0};
};

Scheduler scheduler;

void leave_scheduler(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler.fake_stack, fiber.stack.get(), kStack);
#endif
  cuda_on_cpu_switch(&scheduler.place, fiber.place);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
}

// Back to the scheduler; returns when it is this fiber's turn again.
void wait(State state) {
  Fiber& fiber = *scheduler.fibers[scheduler.current];
  fiber.state = state;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler.stack, scheduler.stack_size);
#endif
  cuda_on_cpu_switch(&fiber.place, scheduler.place);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

// What a fiber does: one thread of every block.
[[noreturn]] void live() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_size);
#endif
  for (;;) {
    try {
      (*scheduler.thread)();
    } catch (...) {
      scheduler.error = std::current_exception();
    }
    wait(State::done);
  }
}

// A stack that a switch to it leaves for live(), as if that had been called.
std::unique_ptr<Fiber> make_fiber() {
  auto fiber = std::make_unique<Fiber>();
  auto top = reinterpret_cast<uintptr_t>(fiber->stack.get() + kStack) & ~uintptr_t{15};
  void** place = reinterpret_cast<void**>(top) - 2;
  *place = reinterpret_cast<void*>(&live);
  fiber->place = place - kKept;
  return fiber;
}

// The threads in the order of their turns, those of a warp in succession.
void choose_turns() {
  std::vector<unsigned>& turns = scheduler.turns;
  turns.resize(scheduler.count);
  std::iota(turns.begin(), turns.end(), 0u);
  if (scheduler.order == Order::backward) std::reverse(turns.begin(), turns.end());
  if (scheduler.order != Order::shuffled) return;
  const unsigned warps = (scheduler.count + kWarp - 1) / kWarp;
  std::vector<uint64_t> place(warps);
  for (uint64_t& each : place) each = scheduler.random();
  std::shuffle(turns.begin(), turns.end(), scheduler.random);
  std::stable_sort(turns.begin(), turns.end(), [&](unsigned a, unsigned b) {
    return std::pair(place[a / kWarp], a / kWarp) < std::pair(place[b / kWarp], b / kWarp);
  });
}

// Lets the lanes of a warp go on that all wait in one operation.
bool release_warp(unsigned first) {
  const unsigned lanes = std::min(kWarp, scheduler.count - first);
  unsigned waiting = 0;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (scheduler.fibers[first + lane]->state == State::warp) waiting |= 1u << lane;
  }
  if (waiting == 0) return false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if ((waiting >> lane & 1u) && scheduler.fibers[first + lane]->mask != waiting) return false;
  }
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (waiting >> lane & 1u) scheduler.fibers[first + lane]->state = State::ready;
  }
  return true;
}

// Where no thread can run: opens the barrier, or says what is wrong. False when all are done.
bool release() {
  unsigned at_barrier = 0, in_warp = 0;
  for (unsigned i = 0; i < scheduler.count; ++i) {
    if (scheduler.fibers[i]->state == State::ready) return true;
    at_barrier += scheduler.fibers[i]->state == State::barrier;
    in_warp += scheduler.fibers[i]->state == State::warp;
  }
  if (at_barrier + in_warp == 0) return false;
  if (at_barrier < scheduler.count) {
    const std::string threads = std::to_string(scheduler.count);
    scheduler.fibers.clear();  // they are in the middle of something
    throw std::runtime_error("of " + threads + " threads " + std::to_string(at_barrier) +
                             " wait at a barrier and " + std::to_string(in_warp) +
                             " in a warp operation for lanes of its mask that do not come");
  }
  for (unsigned i = 0; i < scheduler.count; ++i) scheduler.fibers[i]->state = State::ready;
  return true;
}

void prepare(unsigned count) {
  scheduler.count = count;
  while (scheduler.fibers.size() < count) scheduler.fibers.push_back(make_fiber());
  for (unsigned i = 0; i < count; ++i) {
    Fiber& fiber = *scheduler.fibers[i];
    fiber.state = State::ready;
    fiber.exchanges = 0;
    fiber.gifts = 0;
    fiber.copies.clear();
    fiber.groups = 0;
    fiber.index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
  }
}

// Lets a thread run until it waits or is done.
void take_turn(unsigned turn) {
  Fiber& fiber = *scheduler.fibers[turn];
  if (fiber.state != State::ready) return;
  scheduler.current = turn;
  threadIdx = fiber.index;
  leave_scheduler(fiber);
  if (scheduler.error == nullptr) return;
  scheduler.fibers.clear();  // they are in the middle of something
  std::rethrow_exception(std::exchange(scheduler.error, nullptr));
}

// A warp runs until a barrier before the next one does, so that warps are as far apart as barriers
// allow; in a shuffled order, until one of its warp operations.
void run_block() {
  do {
    choose_turns();
    for (unsigned next = 0; next < scheduler.count;) {
      const unsigned begin = next, warp = scheduler.turns[begin] / kWarp;
      while (next < scheduler.count && scheduler.turns[next] / kWarp == warp) ++next;
      do {
        for (unsigned i = begin; i < next; ++i) take_turn(scheduler.turns[i]);
      } while (release_warp(warp * kWarp) &&
               (scheduler.order != Order::shuffled || scheduler.random() % 2 == 0));
    }
  } while (release());
}

}  // namespace

void set_order(Order order) {
  scheduler.order = order;
  scheduler.random.seed(0);
}

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& thread) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (threads < 1 || threads > 1024) throw std::runtime_error("a block has 1 to 1024 threads");
  if (shared > 99 * 1024) throw std::runtime_error("a block has at most 99 KiB of shared memory");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) {
    throw std::runtime_error("a grid has 1 to 65535 blocks up and deep, and 1 or more across");
  }
  scheduler.thread = &thread;
  gridDim = grid;
  blockDim = block;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        scheduler.shared.reset(new unsigned char[shared]);
        scheduler.shared_size = shared;
        std::memset(scheduler.shared.get(), 0xFF, shared);
        prepare(static_cast<unsigned>(threads));
        run_block();
      }
    }
  }
}

void barrier() { wait(State::barrier); }

void* shared_memory() { return scheduler.shared.get(); }

bool is_shared(const void* address) {
  const auto* byte = static_cast<const unsigned char*>(address);
  const unsigned char* begin = scheduler.shared.get();
  return byte >= begin && byte <= begin + scheduler.shared_size;  // the end is for the sanitizer
}

uint64_t exchange(unsigned mask, uint64_t bits, int distance) {
  const unsigned self = scheduler.current;
  Fiber& fiber = *scheduler.fibers[self];
  const unsigned slot = fiber.exchanges++ % 2;
  fiber.slots[slot] = bits;
  fiber.mask = mask;
  wait(State::warp);
  const unsigned other = self ^ static_cast<unsigned>(distance);
  return (mask >> (other % kWarp) & 1u) ? scheduler.fibers[other]->slots[slot] : bits;
}

unsigned vote(unsigned mask, bool mine) {
  const unsigned self = scheduler.current;
  Fiber& fiber = *scheduler.fibers[self];
  const unsigned slot = fiber.exchanges++ % 2;
  fiber.slots[slot] = mine;
  fiber.mask = mask;
  wait(State::warp);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1u)) continue;
    if (scheduler.fibers[self - self % kWarp + lane]->slots[slot] != 0) votes |= 1u << lane;
  }
  return votes;
}

void give(const void* mine, size_t size) {
  Fiber& fiber = *scheduler.fibers[scheduler.current];
  std::memcpy(fiber.gift[fiber.gifts++ % 2], mine, size);
  fiber.mask = 0xFFFFFFFFu;
  wait(State::warp);
}

const void* given(unsigned lane) {
  const unsigned self = scheduler.current;
  const unsigned gifts = scheduler.fibers[self]->gifts;
  return scheduler.fibers[self - self % kWarp + lane]->gift[(gifts - 1) % 2];
}

void copy_later(void* to, const void* from) {
  Fiber& fiber = *scheduler.fibers[scheduler.current];
  Copy copy = {to, {}, fiber.groups};
  std::memcpy(copy.bytes, from, kCopied);
  std::memset(to, 0xFF, kCopied);
  fiber.copies.push_back(copy);
}

void close_copies() { ++scheduler.fibers[scheduler.current]->groups; }

void await_copies(unsigned left) {
  Fiber& fiber = *scheduler.fibers[scheduler.current];
  auto copy = fiber.copies.begin();
  for (; copy != fiber.copies.end() && copy->group + left < fiber.groups; ++copy) {
    std::memcpy(copy->to, copy->bytes, kCopied);
  }
  fiber.copies.erase(fiber.copies.begin(), copy);
}

}  // namespace cuda_on_cpu

namespace pydream {
namespace {

// The bits of `value` without the low `drop`, rounded to the nearest, ties to even.
uint32_t round_off(uint32_t bits, int drop) {
  const uint32_t half = (1u << (drop - 1)) - 1u;
  return (bits + half + (bits >> drop & 1u)) >> drop;
}

}  // namespace

void narrow(float value, BFloat16* to) {
  const uint32_t bits = float_bits(value);
  to->bits = std::isnan(value) ? 0x7FFFu : static_cast<uint16_t>(round_off(bits, 16));
}

void narrow(float value, Half* to) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (std::isnan(value)) {
    half = 0x7FFFu;
  } else if (magnitude >= 0x477FF000u) {  // 65520 and more
    half = 0x7C00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24
    half = static_cast<uint32_t>(std::nearbyint(std::fabs(value) * 0x1p24f));
  } else {
    half = round_off(magnitude - (112u << 23), 13);
  }
  to->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace pydream
