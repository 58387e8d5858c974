// A loop over independent items on some threads.
//
// They are torch's own OpenMP threads where there are such, else those of a small pool. Not an
// OpenMP of this module: a second copy would spin against torch's. Which thread runs an item is not
// fixed, so an item must write only its own output; then results do not depend on the number of
// threads.
#pragma once

#include <cstdint>
#include <functional>

namespace pydream {

// Calls body(begin, end) on pieces that together make [0, count), on up to `threads`
// threads, the caller's among them; pieces hold `grain` items where they are shared. The first
// exception that a piece throws is thrown again here, after all pieces have ended. May be called
// from several threads at once; a call from inside a body runs on that thread alone.
void parallel_for(int64_t count, int64_t grain, int threads,
                  const std::function<void(int64_t, int64_t)>& body);

}  // namespace pydream
