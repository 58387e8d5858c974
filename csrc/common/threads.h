// How kernels divide their work among threads, unless they say otherwise.
#pragma once

namespace pydream {

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

}  // namespace pydream
