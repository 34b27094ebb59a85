// Where the keys of sequences lie: in runs of consecutive rows.
#pragma once

// Consecutive keys: the outer index of keys and values, and the inner one of the first.
struct Run {
    int outer, inner;
};

// A table of runs, all of as many keys but the last ones of sequences.
struct KeyRuns {
    const Run* runs;
    int keys;   // of a run
    int shift;  // their logarithm, or -1 where they are no power of two

    // Those of one sequence, by where they begin.
    __device__ KeyRuns from(int first) const { return {runs + first, keys, shift}; }

    // Whether keys from one on are of one run, as far as can be told without a division.
    __device__ bool hold(int key, int count) const {
        return shift >= 0 && key >> shift == key + count - 1 >> shift;
    }

    __device__ Run operator[](int key) const {
        int at = shift >= 0 ? key >> shift : key / keys;
        Run run = runs[at];
        run.inner += key - at * keys;
        return run;
    }
};
