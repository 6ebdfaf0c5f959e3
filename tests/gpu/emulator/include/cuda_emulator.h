// The part of CUDA C++ that the kernels use, for a host compiler.  Force-included before every kernel source.
//
// No system header is included, and none can be by a kernel (-nostdinc): NVRTC has none either.  So there is no
// INFINITY, NAN, assert, printf or uint32_t here.  Left out on purpose, so that a use does not compile:
// floating-point atomics (their order differs from run to run) and bare __shared__ (see FL_SHARED).
//
// Every rendezvous (barrier, shuffle, vote) is a call into runtime.cpp that names its place in the source.
#pragma once

#define FL_EMULATED 1

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;

// ---- keywords -----------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __builtin_assume(condition) ((void)0)
#define __shared__ static_assert(false, "use FL_SHARED or FL_DYNAMIC_SHARED, not __shared__");

// Functions of this header vanish from the generated code: a fault inside one has a line of the kernel, too.
#define FL_EMULATOR_INLINE static inline __attribute__((always_inline))

// ---- vector types -------------------------------------------------------------------------------------------

#define FL_EMULATOR_VECTOR(T, name, align2, align4)                              \
  struct name##1 { T x; };                                                       \
  struct alignas(align2) name##2 { T x, y; };                                    \
  struct name##3 { T x, y, z; };                                                 \
  struct alignas(align4) name##4 { T x, y, z, w; };                              \
  FL_EMULATOR_INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  FL_EMULATOR_INLINE name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  FL_EMULATOR_INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
FL_EMULATOR_VECTOR(unsigned char, uchar, 2, 4)
FL_EMULATOR_VECTOR(unsigned short, ushort, 4, 8)
FL_EMULATOR_VECTOR(int, int, 8, 16)
FL_EMULATOR_VECTOR(unsigned int, uint, 8, 16)
FL_EMULATOR_VECTOR(long long, longlong, 16, 16)
FL_EMULATOR_VECTOR(unsigned long long, ulonglong, 16, 16)
FL_EMULATOR_VECTOR(float, float, 8, 16)
FL_EMULATOR_VECTOR(double, double, 16, 16)

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

// ---- calls into the runtime ---------------------------------------------------------------------------------

namespace emulator {

// The same structures are in runtime.cpp.
struct ThreadContext {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
  int lane;
  unsigned int warp_lanes;  // bit i: lane i of this warp exists
};

struct Site {
  int number;  // differs for every rendezvous in the text
  int line;
  const char* file;
};

enum BarrierKind { plain_barrier, count_barrier, and_barrier, or_barrier };
enum AtomicOperation { atomic_add, atomic_increment, atomic_minimum, atomic_maximum, atomic_swap_if, atomic_swap };

extern "C" {
extern const ThreadContext* emulator_thread;
int emulator_barrier(int kind, int predicate, Site site);
unsigned long long emulator_shuffle(unsigned int mask, unsigned long long value, int source_lane, Site site);
unsigned int emulator_vote(unsigned int mask, int predicate, Site site);
void emulator_syncwarp(unsigned int mask, Site site);
void emulator_fence();
void* emulator_shared(const void* tag, size_t bytes, Site site);
void* emulator_dynamic_shared();
unsigned long long emulator_atomic(void* address, int bytes, int is_signed, int operation, unsigned long long value,
                                   unsigned long long expected);
void emulator_fail(const char* message, Site site);
}

#define FL_EMULATOR_SITE (emulator::Site{__COUNTER__, __LINE__, __FILE__})

template <typename To, typename From>
FL_EMULATOR_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) >= sizeof(From) || sizeof(From) == 8, "bits would be lost");
  To to{};
  __builtin_memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}

}  // namespace emulator

#define threadIdx (emulator::emulator_thread->thread_index)
#define blockIdx (emulator::emulator_thread->block_index)
#define blockDim (emulator::emulator_thread->block_size)
#define gridDim (emulator::emulator_thread->grid_size)
#define warpSize 32

// ---- shared memory ------------------------------------------------------------------------------------------

// A static shared array.  Its tag, one per function (or instantiation) and name, identifies it within the block.
#define FL_SHARED(T, name, count)                                  \
  static char fl_emulator_tag_##name;                              \
  static_assert(alignof(T) <= 16, "FL_SHARED aligns to 16 bytes"); \
  T(&name)[count] = *reinterpret_cast<T(*)[count]>(                \
      emulator::emulator_shared(&fl_emulator_tag_##name, sizeof(T) * (count), FL_EMULATOR_SITE))

// The dynamic shared memory of the launch, aligned to 16 bytes.
#define FL_DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulator::emulator_dynamic_shared())

// ---- barriers and fences ------------------------------------------------------------------------------------

#define __syncthreads() ((void)emulator::emulator_barrier(emulator::plain_barrier, 0, FL_EMULATOR_SITE))
#define __syncthreads_count(...) emulator::emulator_barrier(emulator::count_barrier, (__VA_ARGS__), FL_EMULATOR_SITE)
#define __syncthreads_and(...) emulator::emulator_barrier(emulator::and_barrier, (__VA_ARGS__), FL_EMULATOR_SITE)
#define __syncthreads_or(...) emulator::emulator_barrier(emulator::or_barrier, (__VA_ARGS__), FL_EMULATOR_SITE)
#define __threadfence() emulator::emulator_fence()
#define __threadfence_block() ((void)0)  // the race check knows of fences between blocks only

// ---- warps --------------------------------------------------------------------------------------------------

namespace emulator {

// Source lanes as in the shuffle tables of the CUDA C++ Programming Guide; a lane that finds none keeps its own value.
enum ShuffleKind { shuffle_index, shuffle_up, shuffle_down, shuffle_xor };

FL_EMULATOR_INLINE int source_lane(ShuffleKind kind, int operand, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    emulator_fail("a shuffle's width is a power of two up to 32", site);
  const int lane = emulator_thread->lane, first = lane & ~(width - 1), last = first + width - 1;
  operand &= 31;  // the hardware uses five bits
  if (kind == shuffle_index) return first | (operand & (width - 1));
  if (kind == shuffle_up) return lane - operand >= first ? lane - operand : lane;
  const int source = kind == shuffle_down ? lane + operand : lane ^ operand;
  return source <= last ? source : lane;
}

#define FL_EMULATOR_SHUFFLE(T)                                                                                         \
  FL_EMULATOR_INLINE T shuffle(ShuffleKind kind, Site site, unsigned int mask, T value, int operand, int width = 32) { \
    const int source = source_lane(kind, operand, width, site);                                                        \
    return bit_cast<T>(emulator_shuffle(mask, bit_cast<unsigned long long>(value), source, site));                     \
  }
FL_EMULATOR_SHUFFLE(int)
FL_EMULATOR_SHUFFLE(unsigned int)
FL_EMULATOR_SHUFFLE(long)
FL_EMULATOR_SHUFFLE(unsigned long)
FL_EMULATOR_SHUFFLE(long long)
FL_EMULATOR_SHUFFLE(unsigned long long)
FL_EMULATOR_SHUFFLE(float)
FL_EMULATOR_SHUFFLE(double)

FL_EMULATOR_INLINE void syncwarp(Site site, unsigned int mask = 0xffffffffu) { emulator_syncwarp(mask, site); }
FL_EMULATOR_INLINE unsigned int ballot(Site site, unsigned int mask, int predicate) {
  return emulator_vote(mask, predicate, site);
}
FL_EMULATOR_INLINE int any(Site site, unsigned int mask, int predicate) {
  return emulator_vote(mask, predicate, site) != 0;
}
FL_EMULATOR_INLINE int all(Site site, unsigned int mask, int predicate) {
  return emulator_vote(mask, predicate, site) == mask;
}

}  // namespace emulator

#define __shfl_sync(...) emulator::shuffle(emulator::shuffle_index, FL_EMULATOR_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) emulator::shuffle(emulator::shuffle_up, FL_EMULATOR_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) emulator::shuffle(emulator::shuffle_down, FL_EMULATOR_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) emulator::shuffle(emulator::shuffle_xor, FL_EMULATOR_SITE, __VA_ARGS__)
#define __ballot_sync(...) emulator::ballot(FL_EMULATOR_SITE, __VA_ARGS__)
#define __any_sync(...) emulator::any(FL_EMULATOR_SITE, __VA_ARGS__)
#define __all_sync(...) emulator::all(FL_EMULATOR_SITE, __VA_ARGS__)
#define __syncwarp(...) emulator::syncwarp(FL_EMULATOR_SITE __VA_OPT__(, ) __VA_ARGS__)
#define __activemask() (emulator::emulator_thread->warp_lanes)

// ---- atomics: relaxed, as on the GPU; only __threadfence orders what stands around them ---------------------

namespace emulator {

template <typename T>
FL_EMULATOR_INLINE T atomic(T* address, AtomicOperation operation, T value, T expected = T()) {
  constexpr bool is_signed = T(-1) < T(0);
  return bit_cast<T>(emulator_atomic(address, sizeof(T), is_signed, operation, bit_cast<unsigned long long>(value),
                                     bit_cast<unsigned long long>(expected)));
}

}  // namespace emulator

#define FL_EMULATOR_ATOMIC(function, operation, T) \
  FL_EMULATOR_INLINE T function(T* address, T value) { return emulator::atomic(address, emulator::operation, value); }
#define FL_EMULATOR_ATOMICS(T)                                                   \
  FL_EMULATOR_ATOMIC(atomicAdd, atomic_add, T)                                   \
  FL_EMULATOR_ATOMIC(atomicMin, atomic_minimum, T)                               \
  FL_EMULATOR_ATOMIC(atomicMax, atomic_maximum, T)                               \
  FL_EMULATOR_ATOMIC(atomicExch, atomic_swap, T)                                 \
  FL_EMULATOR_INLINE T atomicCAS(T* address, T expected, T value) {              \
    return emulator::atomic(address, emulator::atomic_swap_if, value, expected); \
  }
FL_EMULATOR_ATOMICS(int)
FL_EMULATOR_ATOMICS(unsigned int)
FL_EMULATOR_ATOMICS(unsigned long long)
FL_EMULATOR_ATOMIC(atomicInc, atomic_increment, unsigned int)
float atomicAdd(float*, float) = delete;
double atomicAdd(double*, double) = delete;

// ---- loads and stores with cache hints ----------------------------------------------------------------------

namespace emulator {

template <typename T>
struct Same {  // keeps an argument out of the deduction of T, as CUDA's overloads convert
  typedef T type;
};

template <typename T>
constexpr bool is_loadable = __is_trivially_copyable(T) && sizeof(T) <= 16 && !(sizeof(T) & (sizeof(T) - 1));

}  // namespace emulator

#define FL_EMULATOR_LOAD(function)                                                    \
  template <typename T>                                                               \
  FL_EMULATOR_INLINE T function(const T* address) {                                   \
    static_assert(emulator::is_loadable<T>, "one load is of 1, 2, 4, 8 or 16 bytes"); \
    return *address;                                                                  \
  }
#define FL_EMULATOR_STORE(function)                                                      \
  template <typename T>                                                                  \
  FL_EMULATOR_INLINE void function(T* address, typename emulator::Same<T>::type value) { \
    static_assert(emulator::is_loadable<T>, "one store is of 1, 2, 4, 8 or 16 bytes");   \
    *address = value;                                                                    \
  }
FL_EMULATOR_LOAD(__ldg)
FL_EMULATOR_LOAD(__ldca)
FL_EMULATOR_LOAD(__ldcg)
FL_EMULATOR_LOAD(__ldcs)
FL_EMULATOR_LOAD(__ldlu)
FL_EMULATOR_STORE(__stcg)
FL_EMULATOR_STORE(__stcs)
FL_EMULATOR_STORE(__stwb)
FL_EMULATOR_STORE(__stwt)

// ---- bits and integers --------------------------------------------------------------------------------------

FL_EMULATOR_INLINE float __int_as_float(int bits) { return emulator::bit_cast<float>(bits); }
FL_EMULATOR_INLINE float __uint_as_float(unsigned int bits) { return emulator::bit_cast<float>(bits); }
FL_EMULATOR_INLINE int __float_as_int(float value) { return emulator::bit_cast<int>(value); }
FL_EMULATOR_INLINE unsigned int __float_as_uint(float value) { return emulator::bit_cast<unsigned int>(value); }
FL_EMULATOR_INLINE double __longlong_as_double(long long bits) { return emulator::bit_cast<double>(bits); }
FL_EMULATOR_INLINE long long __double_as_longlong(double value) { return emulator::bit_cast<long long>(value); }
FL_EMULATOR_INLINE int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
FL_EMULATOR_INLINE int __clzll(long long bits) { return bits ? __builtin_clzll(bits) : 64; }
FL_EMULATOR_INLINE int __ffs(int bits) { return __builtin_ffs(bits); }
FL_EMULATOR_INLINE int __popc(unsigned int bits) {
  int count = 0;
  for (; bits; bits &= bits - 1) ++count;
  return count;
}

#define FL_EMULATOR_MINIMUM_MAXIMUM(T)                         \
  FL_EMULATOR_INLINE T min(T a, T b) { return b < a ? b : a; } \
  FL_EMULATOR_INLINE T max(T a, T b) { return a < b ? b : a; }
FL_EMULATOR_MINIMUM_MAXIMUM(int)
FL_EMULATOR_MINIMUM_MAXIMUM(unsigned int)
FL_EMULATOR_MINIMUM_MAXIMUM(long)
FL_EMULATOR_MINIMUM_MAXIMUM(unsigned long)
FL_EMULATOR_MINIMUM_MAXIMUM(long long)
FL_EMULATOR_MINIMUM_MAXIMUM(unsigned long long)

// ---- mathematics --------------------------------------------------------------------------------------------

#define FL_EMULATOR_FUNCTION1(name) \
  extern "C" double name(double);   \
  extern "C" float name##f(float);  \
  FL_EMULATOR_INLINE float name(float x) { return name##f(x); }
#define FL_EMULATOR_FUNCTION2(name)       \
  extern "C" double name(double, double); \
  extern "C" float name##f(float, float); \
  FL_EMULATOR_INLINE float name(float x, float y) { return name##f(x, y); }
FL_EMULATOR_FUNCTION1(ceil)
FL_EMULATOR_FUNCTION1(cos)
FL_EMULATOR_FUNCTION1(cosh)
FL_EMULATOR_FUNCTION1(erf)
FL_EMULATOR_FUNCTION1(exp)
FL_EMULATOR_FUNCTION1(exp2)
FL_EMULATOR_FUNCTION1(expm1)
FL_EMULATOR_FUNCTION1(fabs)
FL_EMULATOR_FUNCTION1(floor)
FL_EMULATOR_FUNCTION1(lgamma)
FL_EMULATOR_FUNCTION1(log)
FL_EMULATOR_FUNCTION1(log1p)
FL_EMULATOR_FUNCTION1(log2)
FL_EMULATOR_FUNCTION1(rint)
FL_EMULATOR_FUNCTION1(sin)
FL_EMULATOR_FUNCTION1(sinh)
FL_EMULATOR_FUNCTION1(sqrt)
FL_EMULATOR_FUNCTION1(tanh)
FL_EMULATOR_FUNCTION1(trunc)
FL_EMULATOR_FUNCTION2(copysign)
FL_EMULATOR_FUNCTION2(fmax)
FL_EMULATOR_FUNCTION2(fmin)
FL_EMULATOR_FUNCTION2(fmod)
FL_EMULATOR_FUNCTION2(pow)
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
extern "C" double ldexp(double, int);
extern "C" float ldexpf(float, int);

FL_EMULATOR_INLINE float min(float a, float b) { return fminf(a, b); }
FL_EMULATOR_INLINE float max(float a, float b) { return fmaxf(a, b); }
FL_EMULATOR_INLINE double min(double a, double b) { return fmin(a, b); }
FL_EMULATOR_INLINE double max(double a, double b) { return fmax(a, b); }
FL_EMULATOR_INLINE float fma(float a, float b, float c) { return fmaf(a, b, c); }
FL_EMULATOR_INLINE int abs(int x) { return x < 0 ? -x : x; }
FL_EMULATOR_INLINE long long abs(long long x) { return x < 0 ? -x : x; }
FL_EMULATOR_INLINE float abs(float x) { return fabsf(x); }
FL_EMULATOR_INLINE double abs(double x) { return fabs(x); }
FL_EMULATOR_INLINE bool isnan(float x) { return __builtin_isnan(x); }
FL_EMULATOR_INLINE bool isnan(double x) { return __builtin_isnan(x); }
FL_EMULATOR_INLINE bool isinf(float x) { return __builtin_isinf(x); }
FL_EMULATOR_INLINE bool isinf(double x) { return __builtin_isinf(x); }
FL_EMULATOR_INLINE bool isfinite(float x) { return __builtin_isfinite(x); }
FL_EMULATOR_INLINE bool isfinite(double x) { return __builtin_isfinite(x); }
FL_EMULATOR_INLINE bool signbit(float x) { return __builtin_signbitf(x); }
FL_EMULATOR_INLINE bool signbit(double x) { return __builtin_signbit(x); }
FL_EMULATOR_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
FL_EMULATOR_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }

// The GPU's own formulas, so that errors grow with |x| as they do there.
FL_EMULATOR_INLINE float __expf(float x) { return exp2f(x * 1.4426950408889634f); }
FL_EMULATOR_INLINE float __logf(float x) { return log2f(x) * 0.6931471805599453f; }
FL_EMULATOR_INLINE float __log2f(float x) { return log2f(x); }
FL_EMULATOR_INLINE float __fdividef(float a, float b) { return a * (1.0f / b); }
FL_EMULATOR_INLINE float __frcp_rn(float x) { return 1.0f / x; }

// ---- what Python calls: a kernel with its arguments in memory, and the types of its parameters --------------

namespace emulator {

template <typename T>
struct TypeCode;  // NumPy's kind and size; a pointer has a p in front
#define FL_EMULATOR_TYPE(T, code)             \
  template <>                                 \
  struct TypeCode<T> {                        \
    static constexpr const char* text = code; \
  };
FL_EMULATOR_TYPE(bool, "b1")
FL_EMULATOR_TYPE(char, "i1")
FL_EMULATOR_TYPE(signed char, "i1")
FL_EMULATOR_TYPE(unsigned char, "u1")
FL_EMULATOR_TYPE(short, "i2")
FL_EMULATOR_TYPE(unsigned short, "u2")
FL_EMULATOR_TYPE(int, "i4")
FL_EMULATOR_TYPE(unsigned int, "u4")
FL_EMULATOR_TYPE(long, "i8")
FL_EMULATOR_TYPE(unsigned long, "u8")
FL_EMULATOR_TYPE(long long, "i8")
FL_EMULATOR_TYPE(unsigned long long, "u8")
FL_EMULATOR_TYPE(float, "f4")
FL_EMULATOR_TYPE(double, "f8")

template <typename T>
struct Parameter {
  static constexpr const char* pointer = "";
  static constexpr const char* code = TypeCode<T>::text;
};
template <typename T>
struct Parameter<T*> {
  static constexpr const char* pointer = "p";
  static constexpr const char* code = TypeCode<T>::text;
};
template <typename T>
struct Parameter<const T*> : Parameter<T*> {};

template <typename... P>
inline void write_signature(void (*)(P...), char* out) {
  const auto append = [&out](const char* text) {
    while (*text) *out++ = *text++;
  };
  ((append(Parameter<P>::pointer), append(Parameter<P>::code), append(" ")), ...);
  *out = 0;
}

template <int...>
struct Indices {};

template <typename... P, int... index>
inline void call(void (*kernel)(P...), void** arguments, Indices<index...>) {
  kernel(*static_cast<P*>(arguments[index])...);
}

template <typename... P>
inline void call(void (*kernel)(P...), void** arguments) {
  call(kernel, arguments, Indices<__integer_pack(sizeof...(P))...>());
}

}  // namespace emulator

#define FL_EMULATOR_EXPORT(kernel)                                                                   \
  extern "C" __attribute__((visibility("default"))) void emulator_entry_##kernel(void** arguments) { \
    emulator::call(&kernel, arguments);                                                              \
  }                                                                                                  \
  extern "C" __attribute__((visibility("default"))) void emulator_signature_##kernel(char* out) {    \
    emulator::write_signature(&kernel, out);                                                         \
  }
