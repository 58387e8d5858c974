// The fibers behind include/common/launch.h. For x86-64: switching stacks by hand takes a
// fiftieth of swapcontext's time, of which AddressSanitizer takes most for clearing its shadow.
#include <memory>
#include <numeric>
#include <random>
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
    (*scheduler.thread)();
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

void choose_turns() {
  scheduler.turns.resize(scheduler.count);
  std::iota(scheduler.turns.begin(), scheduler.turns.end(), 0u);
  if (scheduler.order == Order::backward) {
    std::reverse(scheduler.turns.begin(), scheduler.turns.end());
  }
  if (scheduler.order == Order::shuffled) {
    std::shuffle(scheduler.turns.begin(), scheduler.turns.end(), scheduler.random);
  }
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
  bool released = false;
  for (unsigned first = 0; first < scheduler.count; first += kWarp) {
    released = release_warp(first) || released;
  }
  if (released) return true;
  unsigned at_barrier = 0, in_warp = 0;
  for (unsigned i = 0; i < scheduler.count; ++i) {
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
    fiber.index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
  }
}

void run_block() {
  do {
    choose_turns();
    for (const unsigned turn : scheduler.turns) {
      Fiber& fiber = *scheduler.fibers[turn];
      if (fiber.state != State::ready) continue;
      scheduler.current = turn;
      threadIdx = fiber.index;
      leave_scheduler(fiber);
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
        std::memset(scheduler.shared.get(), 0xFF, shared);
        prepare(static_cast<unsigned>(threads));
        run_block();
      }
    }
  }
}

void barrier() { wait(State::barrier); }

void* shared_memory() { return scheduler.shared.get(); }

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
