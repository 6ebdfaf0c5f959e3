// Runtime of the CUDA emulator: one fiber per CUDA thread, one block at a time, on the calling thread.
//
// A thread runs until it waits at a rendezvous (a barrier, a shuffle, a vote); then the next one that is ready runs.
// What a GPU leaves undefined is an error with the name of the block, the thread and the source line: divergent
// rendezvous, deadlock, and, through signals and UBSan's handlers, bad addresses and integer overflow.
//
// This file is never instrumented itself.  It tells the sanitizers of fibers and of what orders memory accesses:
// EMULATOR_ASAN and EMULATOR_TSAN say which of them instruments the kernels.
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <string>
#include <vector>

#ifdef EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
uint32_t __tsan_atomic32_load(const volatile void* address, int order);
uint64_t __tsan_atomic64_load(const volatile void* address, int order);
void __tsan_atomic32_store(volatile void* address, uint32_t value, int order);
void __tsan_atomic64_store(volatile void* address, uint64_t value, int order);
}
#endif

#if !defined(__x86_64__) || !defined(__linux__)
#error "the CUDA emulator switches stacks and reads signal contexts of Linux on x86-64"
#endif

// ---- what the kernels and Python see; include/cuda_emulator.h and launcher.py hold the same -----------------

struct Triple {
  unsigned x, y, z;
};

struct ThreadContext {
  Triple thread_index, block_index, block_size, grid_size;
  int lane;
  unsigned warp_lanes;
};

struct Site {
  int number, line;
  const char* file;
};

struct Launch {
  void (*entry)(void**);
  void** arguments;
  uint64_t dynamic_shared, seed;
  int64_t only_block;  // negative: all
  unsigned grid[3], block[3];
  int schedule, flush_subnormals;
};

enum BarrierKind { plain_barrier, count_barrier, and_barrier, or_barrier };
enum AtomicOperation { atomic_add, atomic_increment, atomic_minimum, atomic_maximum, atomic_swap_if, atomic_swap };
enum Schedule { forward, reverse, shuffled };

#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED const ThreadContext* emulator_thread;
const ThreadContext* emulator_thread = nullptr;

namespace {

constexpr size_t page = 4096;
constexpr size_t guard = 256 << 10;  // on both sides of shared memory, more than a block can have of it
constexpr size_t static_shared_limit = 48 << 10;
constexpr size_t shared_limit = 227 << 10;
#ifdef EMULATOR_ASAN
constexpr size_t stack_size = 256 << 10;
#else
constexpr size_t stack_size = 64 << 10;
#endif

// ---- state --------------------------------------------------------------------------------------------------

enum class State { ready, at_barrier, in_warp, finished };

struct WarpOperation {
  unsigned mask, arrived, still_to_read;
  Site site;
  uint64_t values[32];
};

struct Fiber {
  ThreadContext context;
  State state;
  Site site;  // where it waits
  WarpOperation* operation;
  void* stack_pointer;
  char* stack;
#ifdef EMULATOR_ASAN
  void* fake_stack;
#endif
#ifdef EMULATOR_TSAN
  void* identity;
  bool has_fenced;
  std::vector<void*> locations;  // of its atomics since its last fence
#endif
};

struct SharedArray {
  const void* tag;
  size_t bytes;
  char* memory;
};

Launch launch;
std::vector<Fiber> fibers;
std::deque<int> ready;
std::vector<std::list<WarpOperation>> warp_operations;  // per warp, not yet complete
std::list<WarpOperation> complete_operations;           // read by those who took part, then used again
std::vector<SharedArray> shared_arrays;                 // of this block
char* dynamic_shared;
int thread_count, finished_count, waiting_count;
Site barrier_site;
int barrier_value, barrier_result, barrier_turn;

Fiber* running;  // null: the scheduler
void* scheduler_stack_pointer;
std::string error;
uint64_t random_state;

// Sanitizers know a synchronisation by an address.  These are fresh for every block: one that two blocks shared would
// order what nothing orders on a GPU.
struct BlockObjects {
  char barrier[2];  // two take turns: who leaves a barrier late is not ordered after who has reached the next
  char shared;
  char warp[32];
  char fence[1024];
};
std::deque<BlockObjects> block_objects;
[[maybe_unused]] char launch_object, end_object;

// ---- thread sanitizer ---------------------------------------------------------------------------------------

#ifdef EMULATOR_TSAN
constexpr unsigned no_synchronisation = 1;
void* scheduler_identity;
std::vector<void*> used_identities;
std::map<void*, char> atomic_locations;

void become(void* identity) { __tsan_switch_to_fiber(identity, no_synchronisation); }
void become_scheduler() { become(scheduler_identity); }
void become_running() { become(running->identity); }
void acquire(void* object) { __tsan_acquire(object); }
void release(void* object) { __tsan_release(object); }

void* new_identity() {
  used_identities.push_back(__tsan_create_fiber(0));
  return used_identities.back();
}
#else
void become_scheduler() {}
void become_running() {}
void acquire(void*) {}
void release(void*) {}
#endif

// The runtime's own bookkeeping is not what is judged.
struct AsScheduler {
  AsScheduler() { become_scheduler(); }
  ~AsScheduler() { become_running(); }
};

// ---- memory: stacks and shared memory -----------------------------------------------------------------------

char* map_between_guards(size_t bytes) {
  const size_t body = (bytes + page - 1) / page * page;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* base = static_cast<char*>(mmap(nullptr, body + 2 * guard, PROT_NONE, flags, -1, 0));
  if (base == MAP_FAILED || mprotect(base + guard, body, PROT_READ | PROT_WRITE)) {
    perror("CUDA emulator: mmap");
    abort();
  }
  return base + guard;
}

// Blocks that are used again from block to block, or, where a sanitizer tells reuse from sharing, never.
class Pool {
 public:
  char* take(size_t bytes) {
#ifdef EMULATOR_TSAN
    return map_between_guards(bytes);  // the process ends after one launch
#else
    std::vector<char*>& free = free_[bytes];
    if (free.empty()) return map_between_guards(bytes);
    char* memory = free.back();
    free.pop_back();
    return memory;
#endif
  }
  void give_back([[maybe_unused]] char* memory, [[maybe_unused]] size_t bytes) {
#ifndef EMULATOR_TSAN
    free_[bytes].push_back(memory);
#endif
  }

 private:
  std::map<size_t, std::vector<char*>> free_;
};
Pool stacks;

#ifdef EMULATOR_ASAN
char* new_shared(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes)) abort();
  memset(memory, 0xFF, bytes);
  return static_cast<char*>(memory);
}
void free_shared(const SharedArray& array) { free(array.memory); }
#else
Pool shared_memory;

size_t up_to_alignment(size_t bytes) { return (bytes + 15) / 16 * 16; }

char* new_shared(size_t bytes) {
  const size_t body = up_to_alignment(bytes);
  char* end = shared_memory.take(body) + (body + page - 1) / page * page;
  memset(end - body, 0xFF, body);
  return end - body;
}
void free_shared(const SharedArray& array) {
  const size_t body = up_to_alignment(array.bytes);
  const size_t front = (page - body % page) % page;
  shared_memory.give_back(array.memory - front, body);
}
#endif

// ---- errors -------------------------------------------------------------------------------------------------

std::string name_of(const Site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string name_of(const Triple& t) {
  return "(" + std::to_string(t.x) + "," + std::to_string(t.y) + "," + std::to_string(t.z) + ")";
}

void note_error(const std::string& message) {
  if (!error.empty()) return;
  error = message;
  if (running) {
    const ThreadContext& context = running->context;
    error += " [block " + name_of(context.block_index) + " thread " + name_of(context.thread_index) + "]";
  }
}

void leave_fiber();

// To be called as the scheduler; the launch ends.
[[noreturn]] void fail(const std::string& message) {
  note_error(message);
  leave_fiber();
  abort();
}

// ---- the schedule -------------------------------------------------------------------------------------------

uint64_t random_number() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

template <typename Container>
void put_in_order(Container& numbers) {
  if (launch.schedule == reverse) std::reverse(numbers.begin(), numbers.end());
  if (launch.schedule == shuffled) {
    for (size_t left = numbers.size(); left > 1; --left) std::swap(numbers[left - 1], numbers[random_number() % left]);
  }
}

template <typename Wakes>
void wake(int first, int end, Wakes wakes) {
  static std::vector<int> woken;
  woken.clear();
  for (int i = first; i < end; ++i) {
    if (wakes(fibers[i])) {
      fibers[i].state = State::ready;
      woken.push_back(i);
    }
  }
  put_in_order(woken);
  ready.insert(ready.end(), woken.begin(), woken.end());
}

// ---- switching stacks ---------------------------------------------------------------------------------------

// A jump in place of a return, whose prediction would be wrong every time.
extern "C" void emulator_switch_stack(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl emulator_switch_stack
.hidden emulator_switch_stack
.type emulator_switch_stack,@function
emulator_switch_stack:
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
  popq %rcx
  jmp *%rcx
.size emulator_switch_stack,.-emulator_switch_stack
)");

#ifdef EMULATOR_ASAN
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;

void before_leaving(Fiber* fiber) {
  void** save = fiber->state == State::finished ? nullptr : &fiber->fake_stack;
  __sanitizer_start_switch_fiber(save, scheduler_stack, scheduler_stack_size);
}
void after_return_to(Fiber* fiber) { __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr); }
void before_resuming(Fiber* fiber) {
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, stack_size);
}
void after_resuming() { __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr); }
void after_first_entry() { __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size); }
#else
void before_leaving(Fiber*) {}
void after_return_to(Fiber*) {}
void before_resuming(Fiber*) {}
void after_resuming() {}
void after_first_entry() {}
#endif

void wait_for_turn() {
  Fiber* fiber = running;
  before_leaving(fiber);
  emulator_switch_stack(&fiber->stack_pointer, scheduler_stack_pointer);
  after_return_to(fiber);
}

void leave_fiber() {
  running->state = State::finished;
  wait_for_turn();
}

void resume(Fiber* fiber) {
  running = fiber;
  emulator_thread = &fiber->context;
  before_resuming(fiber);
  emulator_switch_stack(&scheduler_stack_pointer, fiber->stack_pointer);
  after_resuming();
  running = nullptr;
}

void run_kernel() {
  after_first_entry();
  become_running();
  acquire(&launch_object);
  launch.entry(launch.arguments);
  release(&end_object);
  become_scheduler();
  ++finished_count;
  leave_fiber();
  abort();
}

void prepare_stack(Fiber* fiber) {
  fiber->stack = stacks.take(stack_size);
  void** top = reinterpret_cast<void**>(fiber->stack + stack_size);
  *--top = nullptr;  // as if called: the stack is aligned and its trace ends here
  *--top = reinterpret_cast<void*>(run_kernel);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  fiber->stack_pointer = top;
}

// ---- one block ----------------------------------------------------------------------------------------------

Triple unravel(uint64_t number, const unsigned size[3]) {
  return {static_cast<unsigned>(number % size[0]), static_cast<unsigned>(number / size[0] % size[1]),
          static_cast<unsigned>(number / size[0] / size[1])};
}

void prepare_fiber(int i, const Triple& block_index) {
  Fiber& fiber = fibers[i];
  const int lanes = std::min(32, thread_count - i / 32 * 32);
  fiber.context.thread_index = unravel(i, launch.block);
  fiber.context.block_index = block_index;
  fiber.context.block_size = {launch.block[0], launch.block[1], launch.block[2]};
  fiber.context.grid_size = {launch.grid[0], launch.grid[1], launch.grid[2]};
  fiber.context.lane = i % 32;
  fiber.context.warp_lanes = lanes == 32 ? ~0u : (1u << lanes) - 1;
  fiber.state = State::ready;
  fiber.operation = nullptr;
#ifdef EMULATOR_TSAN
  fiber.identity = new_identity();
  fiber.has_fenced = false;
  fiber.locations.clear();
#endif
  prepare_stack(&fiber);
}

void begin_block(uint64_t number) {
#ifndef EMULATOR_TSAN
  block_objects.clear();
#endif
  block_objects.emplace_back();
  finished_count = waiting_count = 0;
  fibers.resize(thread_count);
  warp_operations.assign((thread_count + 31) / 32, {});
  dynamic_shared = launch.dynamic_shared ? new_shared(launch.dynamic_shared) : nullptr;
  std::vector<int> order(thread_count);
  for (int i = 0; i < thread_count; ++i) {
    prepare_fiber(i, unravel(number, launch.grid));
    order[i] = i;
  }
  put_in_order(order);
  ready.assign(order.begin(), order.end());
  release(&launch_object);
}

void end_block() {
  for (Fiber& fiber : fibers) stacks.give_back(fiber.stack, stack_size);
  if (dynamic_shared) shared_arrays.push_back({nullptr, launch.dynamic_shared, dynamic_shared});
  for (const SharedArray& array : shared_arrays) free_shared(array);
  shared_arrays.clear();
  complete_operations.clear();
  fibers.clear();
}

void note_deadlock() {
  std::map<std::string, int> waiting;
  for (const Fiber& fiber : fibers) {
    if (fiber.state == State::at_barrier) ++waiting["for a barrier at " + name_of(fiber.site)];
    if (fiber.state == State::in_warp) ++waiting["for lanes of their warp at " + name_of(fiber.site)];
  }
  std::string message = "deadlock: of " + std::to_string(thread_count) + " threads ";
  for (const auto& [what, count] : waiting) message += std::to_string(count) + " wait " + what + ", ";
  message += std::to_string(finished_count) + " have ended";
  note_error(message + " [block " + name_of(fibers[0].context.block_index) + "]");
}

void run_block(uint64_t number) {
  begin_block(number);
  while (!ready.empty() && error.empty()) {
    Fiber* next = &fibers[ready.front()];
    ready.pop_front();
    resume(next);
  }
  if (error.empty() && finished_count != thread_count) note_deadlock();
  end_block();
}

// ---- faults -------------------------------------------------------------------------------------------------

sigjmp_buf after_fault;
pthread_t launching_thread;
void* kernel_library;
void* runtime_caller;  // where the kernel called the runtime last: the place of faults inside it
uint64_t fault_offset;

void* library_of(void* address) {
  Dl_info info;
  return dladdr(address, &info) ? info.dli_fbase : nullptr;
}

// The instruction after a call may belong to the next line.
void* call_before(void* return_address) { return static_cast<char*>(return_address) - 1; }

// Python finds the source line of an offset within the kernel's library.
void note_place(void* address) {
  if (library_of(address) != kernel_library) address = runtime_caller;
  if (address) fault_offset = static_cast<char*>(address) - static_cast<char*>(kernel_library);
}

#if !defined(EMULATOR_ASAN) && !defined(EMULATOR_TSAN)
[[noreturn]] void end_after_fault(const char* message, void* place) {
  note_place(place);
  note_error(message);
  siglongjmp(after_fault, 1);
}

constexpr int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

void on_fault(int signal_number, siginfo_t* info, void* context) {
  if (!running || !pthread_equal(pthread_self(), launching_thread)) {  // no fault of a kernel
    signal(signal_number, SIG_DFL);
    return;
  }
  const greg_t pc = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  char message[100];
  if (signal_number == SIGSEGV || signal_number == SIGBUS) {
    snprintf(message, sizeof message, "illegal memory access at address %p", info->si_addr);
  } else {
    snprintf(message, sizeof message, "%s", strsignal(signal_number));
  }
  end_after_fault(message, reinterpret_cast<void*>(pc));
}

class FaultHandlers {
 public:
  FaultHandlers() {
    static char memory[64 << 10];
    stack_t stack = {};
    stack.ss_sp = memory;
    stack.ss_size = sizeof memory;
    sigaltstack(&stack, &stack_before_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 4; ++i) sigaction(fault_signals[i], &action, &before_[i]);
  }
  ~FaultHandlers() {
    for (int i = 0; i < 4; ++i) sigaction(fault_signals[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
  }

 private:
  struct sigaction before_[4];
  stack_t stack_before_;
};

// The compiler's checks of undefined behaviour call these.  With them a kernel needs no sanitizer runtime inside
// Python's process, and every check has its own place.
#define UNDEFINED_BEHAVIOUR(name, message)                              \
  extern "C" __attribute__((visibility("default"))) void name() {       \
    end_after_fault(message, call_before(__builtin_return_address(0))); \
  }
UNDEFINED_BEHAVIOUR(__ubsan_handle_add_overflow_abort, "undefined behaviour: integer overflow of +")
UNDEFINED_BEHAVIOUR(__ubsan_handle_sub_overflow_abort, "undefined behaviour: integer overflow of -")
UNDEFINED_BEHAVIOUR(__ubsan_handle_mul_overflow_abort, "undefined behaviour: integer overflow of *")
UNDEFINED_BEHAVIOUR(__ubsan_handle_negate_overflow_abort, "undefined behaviour: integer overflow of unary -")
UNDEFINED_BEHAVIOUR(__ubsan_handle_divrem_overflow_abort, "undefined behaviour: integer division by zero or overflow")
UNDEFINED_BEHAVIOUR(__ubsan_handle_shift_out_of_bounds_abort, "undefined behaviour: shift by too much")
UNDEFINED_BEHAVIOUR(__ubsan_handle_out_of_bounds_abort, "undefined behaviour: index outside an array")
UNDEFINED_BEHAVIOUR(__ubsan_handle_type_mismatch_v1_abort, "undefined behaviour: misaligned access")
#else
struct FaultHandlers {
  ~FaultHandlers() {}  // the sanitizer has its own
};
#endif

// float32 subnormals count as zero, as NVRTC's -ftz=true makes it.
class Flushing {
 public:
  Flushing() : before_(_mm_getcsr()) {
    constexpr unsigned flush_to_zero = 0x8000, subnormals_are_zero = 0x0040;
    if (launch.flush_subnormals) _mm_setcsr(before_ | flush_to_zero | subnormals_are_zero);
  }
  ~Flushing() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

// ---- a launch -----------------------------------------------------------------------------------------------

std::vector<uint64_t> blocks_in_order() {
  const uint64_t count = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  if (launch.only_block >= 0) {
    if (static_cast<uint64_t>(launch.only_block) >= count) note_error("only_block is outside the grid");
    return {static_cast<uint64_t>(launch.only_block)};
  }
#ifdef EMULATOR_TSAN
  if (count * thread_count > 4096) note_error("the race check takes at most 4096 CUDA threads per launch");
#endif
  if (count > 1u << 24) note_error("the emulator runs at most 2^24 blocks per launch; see only_block");
  if (!error.empty()) return {};
  std::vector<uint64_t> blocks(count);
  for (uint64_t i = 0; i < count; ++i) blocks[i] = i;
  put_in_order(blocks);
  return blocks;
}

void begin_launch() {
  error.clear();
  running = nullptr;
  runtime_caller = nullptr;
  fault_offset = 0;
  random_state = launch.seed * 2 + 1;
  thread_count = launch.block[0] * launch.block[1] * launch.block[2];
  launching_thread = pthread_self();
  kernel_library = library_of(reinterpret_cast<void*>(launch.entry));
#ifdef EMULATOR_TSAN
  scheduler_identity = __tsan_get_current_fiber();
#endif
}

void end_launch() {
  running = nullptr;
  emulator_thread = nullptr;
#ifdef EMULATOR_TSAN
  acquire(&end_object);
  for (void* identity : used_identities) __tsan_destroy_fiber(identity);
#endif
}

}  // namespace

EXPORTED int emulator_launch(const Launch* request) {
  launch = *request;
  begin_launch();
  const std::vector<uint64_t> blocks = blocks_in_order();
  const FaultHandlers handlers;
  const Flushing flushing;
  if (sigsetjmp(after_fault, 0) == 0) {
    for (size_t i = 0; i < blocks.size() && error.empty(); ++i) run_block(blocks[i]);
  } else {
    end_block();
  }
  end_launch();
  return !error.empty();
}

EXPORTED const char* emulator_error() { return error.c_str(); }
EXPORTED uint64_t emulator_fault_offset() { return fault_offset; }

// ---- called by kernels --------------------------------------------------------------------------------------

EXPORTED void emulator_fail(const char* message, Site site) {
  become_scheduler();
  fail(std::string(message) + " at " + name_of(site));
}

namespace {

void join_barrier(int kind, int predicate, const Site& site) {
  if (waiting_count == 0) {
    barrier_site = site;
    barrier_value = kind == and_barrier;
  } else if (barrier_site.number != site.number) {
    fail("divergent barrier: threads of one block wait at " + name_of(barrier_site) + " and at " + name_of(site));
  }
  if (kind == count_barrier) barrier_value += predicate != 0;
  if (kind == and_barrier) barrier_value &= predicate != 0;
  if (kind == or_barrier) barrier_value |= predicate != 0;
  running->state = State::at_barrier;
  running->site = site;
  if (++waiting_count == thread_count) {
    waiting_count = 0;
    barrier_turn ^= 1;
    barrier_result = barrier_value;
    wake(0, thread_count, [](const Fiber&) { return true; });
  }
  wait_for_turn();
}

}  // namespace

EXPORTED int emulator_barrier(int kind, int predicate, Site site) {
  char* object = &block_objects.back().barrier[barrier_turn];
  release(object);
  {
    AsScheduler bookkeeping;
    join_barrier(kind, predicate, site);
  }
  acquire(object);
  return barrier_result;  // the next barrier cannot complete before every thread has been here
}

namespace {

// Lanes meet if they give the same mask at the same place; if they should have and do not, there is a deadlock.
WarpOperation* find_or_begin_operation(unsigned mask, unsigned my_bit, const Site& site) {
  std::list<WarpOperation>& open = warp_operations[(running - fibers.data()) / 32];
  for (WarpOperation& operation : open) {
    const bool meets = operation.mask == mask && operation.site.number == site.number;
    if (meets && !(operation.arrived & my_bit)) return &operation;
  }
  if (complete_operations.empty()) {
    open.emplace_back();
  } else {
    open.splice(open.end(), complete_operations, complete_operations.begin());
  }
  WarpOperation& operation = open.back();
  operation.mask = mask;
  operation.arrived = 0;
  operation.site = site;
  return &operation;
}

// Wait for all lanes of the mask.  The values are valid until the calling thread waits again.
const uint64_t* exchange(unsigned mask, uint64_t value, const Site& site) {
  Fiber* fiber = running;
  const int warp = (fiber - fibers.data()) / 32;
  const unsigned my_bit = 1u << fiber->context.lane;
  if (!(mask & my_bit)) fail("the calling lane is not in its own mask at " + name_of(site));
  WarpOperation* operation = find_or_begin_operation(mask, my_bit, site);
  operation->values[fiber->context.lane] = value;
  operation->arrived |= my_bit;
  fiber->operation = operation;
  if (operation->arrived == mask) {
    operation->still_to_read = mask;
    wake(warp * 32, std::min(warp * 32 + 32, thread_count),
         [operation](const Fiber& other) { return other.state == State::in_warp && other.operation == operation; });
  } else {
    fiber->state = State::in_warp;
    fiber->site = site;
    wait_for_turn();
  }
  fiber->operation = nullptr;
  if ((operation->still_to_read &= ~my_bit) == 0) {
    std::list<WarpOperation>& open = warp_operations[warp];
    const auto is_this = [operation](const WarpOperation& other) { return &other == operation; };
    complete_operations.splice(complete_operations.begin(), open, std::find_if(open.begin(), open.end(), is_this));
  }
  return operation->values;
}

}  // namespace

EXPORTED unsigned long long emulator_shuffle(unsigned mask, unsigned long long value, int source_lane, Site site) {
  AsScheduler bookkeeping;
  const uint64_t* values = exchange(mask, value, site);
  if (!(mask >> source_lane & 1)) {
    fail("shuffle from lane " + std::to_string(source_lane) + ", which is outside the mask, at " + name_of(site));
  }
  return values[source_lane];
}

EXPORTED unsigned emulator_vote(unsigned mask, int predicate, Site site) {
  AsScheduler bookkeeping;
  const uint64_t* values = exchange(mask, predicate != 0, site);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= (mask >> lane & 1 & values[lane]) << lane;
  return votes;
}

// Shuffles and votes order no memory accesses; this does.
EXPORTED void emulator_syncwarp(unsigned mask, Site site) {
  char* object = &block_objects.back().warp[(running - fibers.data()) / 32];
  release(object);
  {
    AsScheduler bookkeeping;
    exchange(mask, 0, site);
  }
  acquire(object);
}

namespace {

char* find_or_make_shared(const void* tag, size_t bytes, const Site& site) {
  size_t total = bytes;
  for (const SharedArray& array : shared_arrays) {
    if (array.tag == tag) return array.memory;
    total += array.bytes;
  }
  if (total > static_shared_limit) fail("more than 48 KiB of static shared memory at " + name_of(site));
  if (total + launch.dynamic_shared > shared_limit) fail("more than 227 KiB of shared memory at " + name_of(site));
  shared_arrays.push_back({tag, bytes, new_shared(bytes)});
  release(&block_objects.back().shared);
  return shared_arrays.back().memory;
}

}  // namespace

EXPORTED void* emulator_shared(const void* tag, size_t bytes, Site site) {
  char* memory;
  {
    AsScheduler bookkeeping;
    memory = find_or_make_shared(tag, bytes, site);
  }
  acquire(&block_objects.back().shared);
  return memory;
}

EXPORTED void* emulator_dynamic_shared() { return dynamic_shared; }

// ---- fences and atomics -------------------------------------------------------------------------------------
//
// Neither orders anything alone.  `fence; atomic` in one thread and `atomic; fence` in another, on one address, do:
// what stood before the first fence happens before what follows the second.

namespace {

#ifdef EMULATOR_TSAN
void* fence_object() { return &block_objects.back().fence[running - fibers.data()]; }

// A fresh identity carries the thread's time at its last fence, not its present time, to the location.
void meet_at(void* address) {
  AsScheduler bookkeeping;
  void* location = &atomic_locations[address];
  if (running->has_fenced) {
    become(new_identity());
    acquire(fence_object());
    release(location);
    become_scheduler();
  }
  running->locations.push_back(location);
}

uint32_t load(uint32_t* address) { return __tsan_atomic32_load(address, __ATOMIC_RELAXED); }
uint64_t load(uint64_t* address) { return __tsan_atomic64_load(address, __ATOMIC_RELAXED); }
void store(uint32_t* address, uint32_t value) { __tsan_atomic32_store(address, value, __ATOMIC_RELAXED); }
void store(uint64_t* address, uint64_t value) { __tsan_atomic64_store(address, value, __ATOMIC_RELAXED); }
#else
void meet_at(void*) {}
template <typename T>
T load(T* address) {
  return *address;
}
template <typename T>
void store(T* address, T value) {
  *address = value;
}
#endif

template <typename Signed, typename Unsigned>
Unsigned new_value(int operation, int is_signed, Unsigned old, Unsigned value, Unsigned expected) {
  const bool less = is_signed ? static_cast<Signed>(value) < static_cast<Signed>(old) : value < old;
  switch (operation) {
    case atomic_add: return old + value;
    case atomic_increment: return old >= value ? 0 : old + 1;
    case atomic_minimum: return less ? value : old;
    case atomic_maximum: return less ? old : value;
    case atomic_swap_if: return old == expected ? value : old;
    default: return value;
  }
}

template <typename Signed, typename Unsigned>
uint64_t change(void* address, int operation, int is_signed, uint64_t value, uint64_t expected) {
  Unsigned* place = static_cast<Unsigned*>(address);
  const Unsigned old = load(place);
  store(place, new_value<Signed, Unsigned>(operation, is_signed, old, value, expected));
  return old;
}

}  // namespace

EXPORTED void emulator_fence() {
#ifdef EMULATOR_TSAN
  for (void* location : running->locations) acquire(location);
  void* object = fence_object();
  {
    AsScheduler bookkeeping;
    running->locations.clear();
    running->has_fenced = true;
  }
  release(object);
#endif
}

EXPORTED unsigned long long emulator_atomic(void* address, int bytes, int is_signed, int operation,
                                            unsigned long long value, unsigned long long expected) {
  runtime_caller = call_before(__builtin_return_address(0));
  if (reinterpret_cast<uintptr_t>(address) % bytes) {
    become_scheduler();
    note_place(nullptr);
    fail("misaligned atomic");
  }
  meet_at(address);
  return bytes == 4 ? change<int32_t, uint32_t>(address, operation, is_signed, value, expected)
                    : change<int64_t, uint64_t>(address, operation, is_signed, value, expected);
}
