// A loop over independent items on some threads.
//
// They are torch's own OpenMP threads if it has any, else those of a small pool. This module has no
// OpenMP of its own: a second runtime would spin against torch's. Any thread may run any item, so
// an item must write only its own output; then results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>

namespace pydream {

// Calls body(begin, end) on pieces that together cover [0, count), on up to `threads` threads,
// including the caller's; shared pieces hold `grain` items. The first exception of a piece is
// thrown again here, after all pieces have ended. Several threads may call this at once; a call
// from inside a body runs on its own thread alone.
void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& body);

}  // namespace pydream
