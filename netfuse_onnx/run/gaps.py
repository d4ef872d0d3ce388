"""The gaps of ONNX Runtime that this package works around, each with a version that was seen to have it.

Code that works around a gap names it here. tests/test_gaps.py shows each one in the installed version and
fails when it is gone: then the work-around goes, once the oldest supported version does not need it either.
All were seen on the CPU provider but those that begin with CUDA.
"""

from __future__ import annotations

# --------------------------------------------------------------------------- types and kernels

NOT_NUMPY = "1.32"
"""session.run neither takes nor gives bfloat16 and 8-bit floats as numpy arrays."""
NOT_NUMPY_TYPES = {
    "bfloat16": 16, "float8e4m3fn": 17, "float8e4m3fnuz": 18, "float8e5m2": 19, "float8e5m2fnuz": 20
}  # fmt: skip
"""ONNX Runtime's names of these types, and ONNX's numbers."""

NO_MAX = "1.20"
"""Clip takes uint8 and int8; Max and Min have no kernel for them."""
NO_MAX_TYPES = (2, 3)

TILE_STAYS = "1.32"
"""Tile of stored float16 is not computed when a model is loaded, and Tile and Expand have no kernel for
bfloat16. Concat is computed at load for all types that it takes (ORT_ENABLE_BASIC)."""

# --------------------------------------------------------------------------- wrong values

GATHER_LOSES_STRINGS = "1.32"
"""Gather of strings copies only the first of each slice."""

RESIZE_BLENDS_ALL = "1.32"
"""Up to rank 3 an interpolating Resize blends all axes, with weight 0 along those that it leaves alone, and
0 times NaN is NaN. Of rank 4 it blends the last two, of rank 5 the last three."""
RESIZE_BLENDS_UP_TO = 3

PAD_AXES_MOVED = "1.32"
"""Transpose, Pad with axes, Transpose: optimised, the widths are permuted as if all axes were named, in
order. It fails or gives wrong values. CenterCropPad is a Pad with axes inside."""

WEIGHTS_QUANTISED = "1.32"
"""With optimisations on, the weights of a Conv, ConvTranspose or Gemm in floats between a DequantizeLinear
with one scale and a QuantizeLinear are quantised to bytes with one scale for all of them, on every provider.
A Mul behind the operator is taken into the weights before."""

ZERO_POINT_LOST = "1.32"
"""With optimisations on, a DequantizeLinear with one stored scale is moved behind a Reshape and the like, as
a pair. The pair is uint8 where there is no zero point below opset 21 (at any, in com.microsoft): negative
numbers become 0, silently. It is int8 and uint8 at once where there is an int8 zero point, even 0, from
there on; it is int32 where there is one of int32: these do not load."""
ZERO_POINT_LOST_BELOW = 21
MOVED_BEHIND = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool"})

SPLITS_JOINED = "1.32"
"""Two Splits of one tensor along one axis into unequal numbers of equal parts are made one, with
optimisations on: the sizes are written out where they are known."""

CONCAT_SKIPS_EMPTY = "1.32"
"""Concat skips inputs without elements, whatever their other sizes: (0, 8) beside (1, 8) gives rows that
belong to nobody."""

SCALES_PER_AXIS_FUSED = "1.32"
"""Between DequantizeLinear and QuantizeLinear with a scale per axis, an operator is fused to one on bytes
that takes one scale, and fails: Conv of uint8, and those of FUSED_PER_AXIS."""
FUSED_PER_AXIS = frozenset({"Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"})

INTEGER_PRODUCT_FUSED = "1.32"
"""MatMulInteger, Cast and Mul are fused to an operator that reads zero points per model wrongly."""

NAN_UNNOTICED = "1.32"
"""DynamicQuantizeLinear notices a NaN in certain places only, and ReduceMax and ReduceMin in others."""

SKIP_CUT = "1.32"
"""SkipLayerNormalization takes the first rows of a skip that has more of them, where Add would make the
input as large."""

VECTOR_UNTRANSPOSED = "1.32"
"""FusedMatMul reads a transposed matrix beside a vector as if it were not transposed."""

NO_AXES_ARE_ALL = "1.32"
"""Squeeze with an empty list of axes drops all of size 1, where ONNX says that it drops none."""

VALUES_UNSIZED = "1.32"
"""Attention's result has 0 for its last axis where inference does not know that of V [B, T, H*size], and its
Shape is computed from that when a session is made."""

LABELS_MISSING = "1.32"
"""GatherElements takes fewer rows of indices than there are rows of data, and so do the losses that are
written out with it, and gives as many."""

BOTH_BROADCAST = "1.31"
"""CUDA: MatMul and FusedMatMul take one strided product where both operands have as many matrices, without
comparing their shapes (CanUseStridedBatchedGemm in core/providers/cuda/math/matmul.cc). [1, B, ..] beside
[N, 1, ..] with B == N gets each matrix with one of the other's, silently, and most of the result is never
written. So one side alone is broadcast (rules/products.py)."""

BROADCAST_OF_SEVERAL = "1.31"
"""CUDA: Sum, Max and Min of three and more inputs that are unequal read one of them with the strides of the
one before (GeneralImplDispatchTarget in core/providers/cuda/math/variadic_elementwise_ops.cc): an axis along
which it is broadcast keeps the other's stride. Of two, and of equal shapes, they are right."""

GATHER_GIVES_ZEROS = "1.31"
"""CUDA: Gather gives 0 for an index out of range (core/providers/cuda/tensor/gather_impl.cu), GatherElements
leaves its output as memory had it, ScatterND takes the nearest index, and GatherND reads what stands there:
none of them fails, as those on the CPU do."""

SCALE_PER_MODEL = "1.31"
"""CUDA: LayerNormalization takes one scale for all where its scale has outer axes (pull request 28971), but
for values of rank 3."""

FUSED_UNCHECKED = "1.31"
"""CUDA: Add and Softmax are fused to BiasSoftmax, which does not compare sizes (ComputeInternal in
contrib_ops/cuda/math/bias_softmax.cc): a bias that is too short is read beyond its end, where Add fails, and
so is one of one element, where Add broadcasts it; what stands there changes from run to run. The fusion asks
only that both shapes are declared alike, and two axes of unknown sizes are. So the sizes of a proof's inputs
are those that a source takes without optimisations and does not broadcast there (prove/loaded.py). A merged
file can be fused like its sources: then it, too, gives an answer to inputs of sizes that do not fit."""

# --------------------------------------------------------------------------- forms that CUDA's kernels refuse

ONE_ZERO_POINT = "1.31"
"""CUDA: MatMulInteger takes one number as the zero point of either operand, and fails on any other when it is
run. It does so for bytes with a sign; others run on the CPU, which takes a zero point for each column."""

SPLIT_OF_NOTHING = "1.31"
"""CUDA: Split with num_outputs (opset 18) fails where the axis is empty, as in a batch of 0."""

REDUCE_OF_NOTHING = "1.31"
"""CUDA: a reduction of an empty axis that does not keep it fails, as in a routed file that is fed no ids: it
fails before its own check, which would refuse them."""

CACHE_OF_ITS_PAST = "1.31"
"""CUDA: where GroupQueryAttention runs on the CPU, as for float32, the cache that it gives is taken to be as
long as the one that it was given, and a copy of it to the device fails."""

NO_AXIS_OF_VECTORS = "1.31"
"""CUDA: QuantizeLinear and DequantizeLinear with a scale for each index of an axis fail on values of rank
1."""

# --------------------------------------------------------------------------- the end of the process

EMPTY_MOVED = "1.31"
"""On every provider, a Transpose that moves the first axis between the others, in front of a MatMul, is made
a part of it (FusedMatMul with transBatchA or transBatchB). Where that axis is empty, it divides by 0
(ComputeBroadcastOffsets in core/providers/cpu/math/matmul_helper.h), which ends the process. A merged file
has that form where it moves models from behind the batch to the front: do not feed it a batch of 0."""
EMPTY_MOVED_BEFORE = (1, 32)

INPUT_GIVEN_OUT = "1.32"
"""Nothing is written to the place that is bound to an output which is an input itself, and no error is told.
Without a place, run_with_ort_values gives the memory of the input out."""

# --------------------------------------------------------------------------- control flow, speed

OUTPUTS_UNTYPED = "1.32"
"""Scan refuses bodies with an output whose rank it can't infer, and Loop without iterations gives what it
collects the shape that the body declares, or zeros: the outputs of merged bodies are typed."""

DEQUANTIZE_STAYS = "1.32"
"""DequantizeLinear of stored values is not computed when a model is loaded, as all else is that reads stored
values alone: a session computes it with each call, unless it is fused."""

SCALAR_BESIDE_ONES = "1.32"
"""An elementwise operator on one number of rank 0 or 1 and a value whose last axis is 1 takes 45 times as
long as with a number of higher rank, as if every element were a row of its own."""

# --------------------------------------------------------------------------- sessions

TELEMETRY = "1.32"
"""From 1.29 on, the official builds for Linux and macOS write an identifier of the machine below the home
folder and send names of models, hashes of graphs and errors to a server. They read TELEMETRY_OFF once, when
the library is loaded: set to 1, nothing is made and nothing is sent. Children inherit it."""

ERRORS_PRINTED = "1.32"
"""An error that is raised as an exception is reported on stderr as well."""

CUDA_LISTED = "1.31"
"""CUDA: onnxruntime-gpu on a machine without a GPU lists CUDAExecutionProvider as available and falls back
to the CPU with a line on stderr. So the only proof is to run something."""

TF32 = "1.32"
"""CUDA: Products of float32 are computed in TF32 unless a session is told not to."""
