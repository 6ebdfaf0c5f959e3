// One launch in a process of its own, for kernels that a sanitizer instruments: Python's process has no room for its
// runtime, and need not die of what it finds.
//
//   runner signature LIBRARY KERNEL     print the types of the kernel's parameters
//   runner launch LIBRARY KERNEL FILE   read the launch and its buffers from FILE, write the buffers back to it
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

struct Launch {  // as in runtime.cpp
  void (*entry)(void**);
  void** arguments;
  uint64_t dynamic_shared, seed;
  int64_t only_block;
  unsigned grid[3], block[3];
  int schedule, flush_subnormals;
};
extern "C" int emulator_launch(const Launch* request);
extern "C" const char* emulator_error();

static void check(bool good, const char* what) {
  if (good) return;
  fprintf(stderr, "runner: %s\n", what);
  exit(2);
}

static void* symbol(void* library, const std::string& name) {
  void* address = dlsym(library, name.c_str());
  check(address != nullptr, dlerror());
  return address;
}

template <typename T>
static T read(FILE* file) {
  T value;
  check(fread(&value, sizeof value, 1, file) == 1, "the request is too short");
  return value;
}

struct Buffer {
  uint64_t bytes;
  char* memory;  // its own allocation, so that a sanitizer knows its ends
};

static std::vector<Buffer> read_buffers(FILE* file) {
  std::vector<Buffer> buffers(read<uint64_t>(file));
  for (Buffer& buffer : buffers) {
    buffer.bytes = read<uint64_t>(file);
    void* memory = nullptr;
    check(posix_memalign(&memory, 256, buffer.bytes) == 0, "no memory");
    buffer.memory = static_cast<char*>(memory);
    check(fread(buffer.memory, 1, buffer.bytes, file) == buffer.bytes, "the request is too short");
  }
  return buffers;
}

// An argument is eight bytes: a value, or the number of a buffer (from 1) and an offset into it.
static std::vector<uint64_t> read_arguments(FILE* file, const std::vector<Buffer>& buffers) {
  std::vector<uint64_t> arguments(read<uint64_t>(file));
  for (uint64_t& argument : arguments) {
    const uint64_t buffer = read<uint64_t>(file);
    argument = read<uint64_t>(file);
    if (buffer) argument += reinterpret_cast<uint64_t>(buffers[buffer - 1].memory);
  }
  return arguments;
}

static void write_buffers(const char* path, const std::vector<Buffer>& buffers) {
  FILE* file = fopen(path, "wb");
  check(file != nullptr, "cannot write the buffers");
  for (const Buffer& buffer : buffers) check(fwrite(buffer.memory, 1, buffer.bytes, file) == buffer.bytes, "disk full");
  check(fclose(file) == 0, "disk full");
}

static int run(void* library, const std::string& kernel, const char* path) {
  FILE* file = fopen(path, "rb");
  check(file != nullptr, "cannot read the request");
  Launch request = read<Launch>(file);
  const std::vector<Buffer> buffers = read_buffers(file);
  std::vector<uint64_t> values = read_arguments(file, buffers);
  fclose(file);
  std::vector<void*> arguments;
  for (uint64_t& value : values) arguments.push_back(&value);
  request.entry = reinterpret_cast<void (*)(void**)>(symbol(library, "emulator_entry_" + kernel));
  request.arguments = arguments.data();
  if (emulator_launch(&request)) {
    fprintf(stderr, "%s\n", emulator_error());
    return 3;
  }
  write_buffers(path, buffers);
  return 0;
}

int main(int count, char** words) {
  check(count >= 4, "signature LIBRARY KERNEL, or launch LIBRARY KERNEL FILE");
  void* library = dlopen(words[2], RTLD_NOW | RTLD_LOCAL);
  check(library != nullptr, dlerror());
  const std::string kernel = words[3];
  if (!strcmp(words[1], "launch") && count == 5) return run(library, kernel, words[4]);
  char signature[4096];
  reinterpret_cast<void (*)(char*)>(symbol(library, "emulator_signature_" + kernel))(signature);
  puts(signature);
  return 0;
}
