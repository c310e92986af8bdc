#pragma once
// What the memory of this machine delivers: the bound of decoding at small batch.

namespace tokamak::cli {

// Bytes read per second by `threads` threads (0: all available), each over several streams at once with software prefetch: a single stream
// understates by a third. The best over a few numbers of streams and prefetch distances, on a buffer of 1.5 GiB (more than caches hold).
// Throws ResourceExhausted.
double measure_read_bandwidth(int threads = 0);

}  // namespace tokamak::cli
