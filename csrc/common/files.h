// Whole files and sizes of files read without the interpreter's lock.
//
// Python takes and releases the lock eight times to read a file (open, stat, read, close, ...), and
// threads that read wait for each other. Sixteen that read photographs of 110 kB and "decode" them
// by a sleep of 2.4 ms came to 5,568 a second; with the files of a run read here, to 6,042, where
// sixteen that only sleep come to 6,411 (benchmarks/decoding_threads.py).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pydream {

// A file to read. No descriptor stays open between two calls, of which sixteen threads with runs of
// 32 files would need half of those that a process may have.
class WholeFile {
 public:
  // Asks for its size.
  explicit WholeFile(std::string path);

  int error() const { return error_; }               // errno of what failed, or 0
  int64_t size() const { return size_; }             // bytes: what the system says, or what it was
  int64_t count() const { return count_; }           // bytes in `to`
  const std::string& more() const { return more_; }  // what follows, of a longer file

  // Reads it to `to` [size], unless there was an error; not far beyond `most` bytes.
  void read_to(char* to, int64_t most);

 private:
  int64_t read_some(int descriptor, char* to, int64_t most);  // 0 at the end, or after an error

  std::string path_;
  int error_ = 0;
  int64_t size_ = 0;
  int64_t count_ = 0;
  std::string more_;
};

// The size of each file in bytes, or minus the errno of what failed.
std::vector<int64_t> file_sizes(const std::vector<std::string>& paths);

}  // namespace pydream
