#include "common/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pydream {

namespace {

constexpr int64_t kMostAtOnce = int64_t{1} << 30;  // of which every system reads some

struct Descriptor {
  explicit Descriptor(const char* path) {
    do {
      number = ::open(path, O_RDONLY | O_CLOEXEC);
    } while (number < 0 && errno == EINTR);
  }
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number;
};

}  // namespace

WholeFile::WholeFile(std::string path) : path_(std::move(path)) {
  struct stat status{};
  if (path_.find('\0') != std::string::npos) {
    error_ = EINVAL;  // a name that the system would cut off there
  } else if (::stat(path_.c_str(), &status) != 0) {
    error_ = errno;
  } else {
    size_ = std::max<int64_t>(status.st_size, 0);
  }
}

std::vector<int64_t> file_sizes(const std::vector<std::string>& paths) {
  std::vector<int64_t> found;
  found.reserve(paths.size());
  for (const std::string& path : paths) {
    const WholeFile file(path);
    found.push_back(file.error() != 0 ? -file.error() : file.size());
  }
  return found;
}

void WholeFile::read_to(char* to, int64_t most) {
  if (error_ != 0) return;
  const Descriptor descriptor(path_.c_str());
  if (descriptor.number < 0) {
    error_ = errno;
    return;
  }
  while (count_ < size_) {
    const int64_t got = read_some(descriptor.number, to + count_, size_ - count_);
    if (got == 0) return;
    count_ += got;
  }
  // Some systems of files know the size only at the end.
  char block[4096];
  for (int64_t got; (got = read_some(descriptor.number, block, sizeof block)) > 0;) {
    more_.append(block, static_cast<size_t>(got));
    size_ = std::max(size_, count_ + static_cast<int64_t>(more_.size()));
    if (size_ > most) return;
  }
}

int64_t WholeFile::read_some(int descriptor, char* to, int64_t most) {
  for (;;) {
    const ssize_t got = ::read(descriptor, to, static_cast<size_t>(std::min(most, kMostAtOnce)));
    if (got >= 0) return got;
    if (errno != EINTR) {
      error_ = errno;
      return 0;
    }
  }
}

}  // namespace pydream
