// Compiled as one: reading LibTorch's headers takes longer than all that follows them, so it is done once. Names
// without linkage are shared by all of these files, and must differ.

#include "autograd.cpp"
#include "bridge.cpp"
#include "max_similarity.cpp"
#include "recycled.cpp"
#include "sparc_local.cpp"
