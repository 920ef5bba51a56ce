/* radixattn.h - the public C API of radixattn: a prefix-sharing paged KV cache and the attention kernels that read it.
 *
 * Self-contained: needs only <stddef.h> and <stdint.h>; C99 to C23, C++11 to C++23.
 *
 * A step of an inference engine, in calls:
 *   radix_begin_request   the longest cached prefix of the prompt is found and leased
 *   radix_append_slot     slots for the tokens to compute; may return COPY operations (copy-on-write)
 *   radix_run_ops         runs those operations
 *   radix_get_block_tables
 *   per layer: radix_rope_append_launch (write K/V), then radix_prefill_launch or radix_paged_attention_launch
 *   radix_commit          full blocks whose K/V is written become visible to others
 *   radix_free_request    the lease ends; committed blocks stay cached until evicted
 *
 * Zero rule      every struct is valid when zero-filled with struct_size set; 0 means "default".
 * Size rule      in:  bytes beyond the caller's struct_size read as 0; unknown trailing bytes must be 0.
 *                out: set struct_size before the call; the library writes at most that many bytes.
 *                radix_match, radix_append_out and radix_commit_out are both: in, then out.
 * Array rule     an array is aligned as its elements are (else INVALID), a struct as a pointer.
 * Thread tags    [F] free-threaded   [C] takes the context's lock   [D] data plane: lock-free, runs on a stream
 * Failure rule   a failing [C] call changes nothing but statistics and the error message.
 * Ids            radix_req, radix_pin and radix_ns carry a generation and their kind: an id whose object is gone, or of
 *                another kind, gives RADIX_E_STALE. An id of another context may by chance name an object of this one.
 * Order          a context has a logical clock: the same calls give the same ids everywhere. (A real clock seeds the hash of
 *                the tree's table, against chosen collisions; nothing that a caller sees depends on it.) */
#ifndef RADIXATTN_H
#define RADIXATTN_H

#include <stddef.h>
#include <stdint.h>

#define RADIXATTN_VERSION_MAJOR 0
#define RADIXATTN_VERSION_MINOR 1
#define RADIXATTN_VERSION_PATCH 0
#define RADIXATTN_VERSION 100u /* MAJOR*10000 + MINOR*100 + PATCH */
#define RADIXATTN_ABI 1u       /* equals the SONAME number: libradixattn.so.0.1 */
#define RADIX_NS_ALL UINT64_MAX /* radix_evict, radix_clear: every namespace */

#if defined(_WIN32)
#define RADIX_CALL __cdecl
#if defined(RADIXATTN_STATIC)
#define RADIX_EXPORT
#elif defined(RADIXATTN_BUILD)
#define RADIX_EXPORT __declspec(dllexport)
#else
#define RADIX_EXPORT __declspec(dllimport)
#endif
#else
#define RADIX_CALL
#if defined(__GNUC__)
#define RADIX_EXPORT __attribute__((visibility("default")))
#else
#define RADIX_EXPORT
#endif
#endif
#if defined(__cplusplus) && __cplusplus >= 201103L
#define RADIX_NOEXCEPT noexcept
#else
#define RADIX_NOEXCEPT
#endif
#define RADIX_API(ret) RADIX_EXPORT ret RADIX_CALL

#ifdef __cplusplus
extern "C" {
#endif

/* @cdef-begin : what follows, to @cdef-end, parses in cffi.cdef() once RADIX_API(x) -> x, RADIX_CALL and
 * RADIX_NOEXCEPT are removed */

typedef struct radix_ctx radix_ctx;   /* opaque */
typedef struct radix_plan radix_plan; /* opaque: the arrays of one step, used by every layer's launch */
typedef uint64_t radix_req;         /* generation<<32 | kind<<30 | index; 0 is never valid */
typedef uint64_t radix_pin;         /* same scheme */
typedef uint64_t radix_ns;          /* same scheme; 0 = the default namespace, which always exists */
typedef uint64_t radix_epoch;       /* host timeline, starts at 1 */
typedef int32_t radix_status;
typedef int32_t radix_token;
typedef int32_t radix_block;        /* physical block id; -1 = none */
typedef void *radix_stream;         /* cudaStream_t on CUDA; NULL on the CPU */

enum { /* radix_status: values never change, new ones are appended */
  RADIX_OK = 0,
  RADIX_E_INVALID = -1,      /* bad argument: the message names it, its value and what was expected */
  RADIX_E_VERSION = -2,      /* struct_size or ABI number not understood */
  RADIX_E_NOMEM = -3,        /* the host allocator returned NULL */
  RADIX_E_NO_BLOCKS = -4,    /* pool exhausted: retry after a free, an evict, an epoch_retire, or preempt */
  RADIX_E_BUFFER = -5,       /* caller's array too small; the needed count is written */
  RADIX_E_STALE = -6,        /* the id's generation does not match: the object is gone, or was never there */
  RADIX_E_STATE = -7,        /* legal call, wrong time */
  RADIX_E_UNSUPPORTED = -8,  /* dtype, shape or instruction set not available in this build or machine */
  RADIX_E_NO_DEVICE = -9,    /* no driver, no device, or driver too old */
  RADIX_E_DEVICE = -10,      /* device runtime error, see radix_error_detail */
  RADIX_E_DEVICE_LOST = -11, /* sticky: only destroy, stats and free still work */
  RADIX_E_IO = -12,
  RADIX_E_CORRUPT = -13,
  RADIX_E_MISMATCH = -14,
  RADIX_E_CANCELLED = -15,
  RADIX_E_QUOTA = -16,       /* the namespace's quota would be passed; shortfall as for NO_BLOCKS */
  RADIX_E_BUSY = -17,        /* ns_destroy or clear while requests or pins live there; plan_update with NO_WAIT: try again */
  RADIX_E_CALLBACK = -18,    /* a user callback reported failure */
  RADIX_E_FULL = -19,        /* a fixed table (requests, pins, namespaces, row of a request) is full */
  RADIX_E_INTERNAL = -99     /* an invariant is broken: a bug of the library */
};
enum { /* dtypes; the library computes with F32, F16 and BF16, and on CUDA keeps K/V in both F8 formats, too */
  RADIX_DT_DEFAULT = 0, RADIX_F32 = 1, RADIX_F16 = 2, RADIX_BF16 = 3, RADIX_F8_E4M3 = 4,
  RADIX_F8_E5M2 = 5, RADIX_I8 = 6, RADIX_I32 = 7, RADIX_I64 = 8, RADIX_U8 = 9
};
enum { RADIX_DEV_AUTO = 0, RADIX_DEV_CPU = 1, RADIX_DEV_CUDA = 2, RADIX_DEV_HIP = 3 };
enum { /* radix_config.cpu_target: instruction set of the CPU kernels */
  RADIX_CPU_AUTO = 0,     /* the best that this machine runs */
  RADIX_CPU_BASELINE = 1, RADIX_CPU_AVX2 = 2, RADIX_CPU_AVX512 = 3, RADIX_CPU_AVX512_BF16 = 4, RADIX_CPU_NEON = 5
};
enum {                   /* eviction: which unleased leaf loses its tail blocks first */
  RADIX_EVICT_LRU = 0,   /* least recently used (begin, match, commit and pin are uses; peek is none) */
  RADIX_EVICT_LFU = 1,   /* least often used; ties by LRU */
  RADIX_EVICT_FIFO = 2,  /* oldest node */
  RADIX_EVICT_NONE = 3   /* append never evicts; radix_evict still does, in LRU order */
};
enum { RADIX_LAYOUT_NHD = 0, /* [num_blocks, block_size, num_kv_heads, head_dim], the default */
       RADIX_LAYOUT_HND = 1  /* [num_blocks, num_kv_heads, block_size, head_dim] */ };
enum { RADIX_ROPE_NEOX = 0,       /* pairs (i, i + rotary_dim/2): Hugging Face Llama, Qwen */
       RADIX_ROPE_INTERLEAVED = 1 /* pairs (2i, 2i+1): GPT-J, original Llama weights */ };
enum { RADIX_ROPE_SCALE_NONE = 0, RADIX_ROPE_SCALE_LINEAR = 1, RADIX_ROPE_SCALE_LLAMA3 = 2, RADIX_ROPE_SCALE_YARN = 3 };
enum { RADIX_LOG_OFF = 0, RADIX_LOG_ERROR = 1, RADIX_LOG_WARN = 2, RADIX_LOG_INFO = 3, RADIX_LOG_DEBUG = 4 };
enum { RADIX_OP_COPY = 1 };       /* radix_op.kind; unknown kinds may come */
enum { RADIX_GRAPH_TEXT = 0, RADIX_GRAPH_JSON = 1, RADIX_GRAPH_DOT = 2 };

enum {                             /* radix_config.flags */
  RADIX_CTX_EXTERNAL_SYNC = 1,     /* the caller serialises [C] calls; no internal lock */
  RADIX_CTX_PREALLOCATE = 2,       /* [C] calls after create never call the allocator: max_* are hard bounds */
  RADIX_CTX_METADATA_ONLY = 4,     /* no KV memory: block ids only (router, simulator, foreign kernels) */
  RADIX_CTX_DEFER_FREE = 8         /* blocks given up wait for radix_epoch_retire before they are used again; cached
                                    * ones by tree node: one given up holds back the others of its run */
};
enum { RADIX_FREE_DISCARD = 1 };   /* blocks that only this request used leave the tree, too */
enum {                             /* radix_request_desc.flags */
  RADIX_BEGIN_MATCH_ALL = 1,       /* may match the last token too (no logits wanted) */
  RADIX_BEGIN_NO_MATCH = 2,        /* nothing cached is taken (SHARE_PENDING may still borrow) */
  RADIX_BEGIN_SHARE_PENDING = 4,   /* may borrow full blocks that another live request has reserved, not committed */
  RADIX_BEGIN_REMAP_DUPLICATES = 8 /* commit swaps duplicates for the cached block (see radix_commit) */
};
enum { /* radix_attn.flags; radix_rope_append.flags takes the first alone */
  RADIX_ATTN_SCALE_PER_HEAD = 1,   /* k_scale and v_scale have one number a KV head; else one in all */
  RADIX_ATTN_BATCH_INVARIANT = 2,  /* a row's bits depend on its query, its position, the K/V that it sees and the launch's other
                                    * arguments (scale, window, flags, ...), and on nothing else: not on the batch, on what is
                                    * shared, on how a prompt was cut into launches, on decode or prefill, on threads or splits.
                                    * With a plan or without. Other instruction sets and devices have other bits. Slower where
                                    * few rows share K/V (docs/radix_attention.md) */
  RADIX_ATTN_BF16_WEIGHTS = 4      /* CPUs with bf16 dot products (RADIX_CPU_AVX512_BF16), when q, K and V are bf16: the softmax's
                                    * weights are rounded to bf16, too, as tensor cores have them, 2^-9 relative: faster prefill
                                    * and prefixes that many share. Decode's own kernel, for keys of one sequence or of a few,
                                    * keeps f32 weights, unless batch-invariant. Elsewhere no effect */
};
enum { /* radix_plan_config.flags */
  RADIX_PLAN_BOUNDS = 1,           /* launches get the plan's capacities instead of a step's sizes: captured into a graph once,
                                    * they serve every later step. Rows beyond the step's own are padding */
  RADIX_PLAN_UNSHARED = 2,         /* every sequence reads all of its K/V by itself, shared or not */
  RADIX_PLAN_BATCH_INVARIANT = 4   /* for launches with RADIX_ATTN_BATCH_INVARIANT: radix_plan_attn sets that flag. All launches
                                    * with the plan have it, and without this none has (INVALID) */
};
enum { /* radix_plan_desc.flags */
  RADIX_PLAN_UPDATE_NO_WAIT = 1           /* CUDA: BUSY when the upload before the last one still runs, instead of waiting for it */
};
enum { RADIX_APPEND_PARTIAL = 1 }; /* radix_append_out.flags: items before the first failure take effect */
enum { /* radix_sample.flags */
  RADIX_SAMPLE_FINAL_LOGPROBS = 1  /* log-probabilities of what the token was drawn from, instead of the model's own */
};
enum { /* radix_sample.out_status, radix_verify.out_status */
  RADIX_ROW_OK = 0,
  RADIX_ROW_NAN = 1,       /* a logit is NaN or +inf */
  RADIX_ROW_EMPTY = 2,     /* no token is left: all are -inf or not allowed */
  RADIX_ROW_PARAMETER = 3  /* a parameter, a token of the history or a bias is out of its range */
};
enum { RADIX_VERIFY_NO_REPLACEMENT = 1 }; /* radix_verify.flags: siblings were drawn without replacement */
enum { /* radix_layer.flags */
  RADIX_LAYER_ADD = 1,           /* y += the block's result (a residual stream), instead of y = */
  RADIX_LAYER_NORM_PLUS_ONE = 2  /* norm weights w count as 1 + w: Gemma */
};
enum { RADIX_GEMM_ADD = 1 }; /* radix_gemm.flags: y += */

/* ---- callbacks: may be called from any thread inside a library call, several at a time; must not throw, longjmp, or call a [C]
 *      function of the same context ----------------------------------------------------------------------- */
typedef void *(RADIX_CALL *radix_alloc_fn)(void *user, size_t size, size_t align); /* NULL = out of memory */
typedef void (RADIX_CALL *radix_free_fn)(void *user, void *ptr, size_t size, size_t align);
typedef void (RADIX_CALL *radix_log_fn)(void *user, int32_t level, const char *msg, size_t len);
typedef void (RADIX_CALL *radix_task_fn)(void *task_arg, uint32_t index);
typedef void (RADIX_CALL *radix_parallel_for_fn)(void *user, uint32_t n, radix_task_fn task, void *task_arg);
typedef int64_t (RADIX_CALL *radix_write_fn)(void *user, const void *buf, uint64_t len); /* len, or < 0 = failure */

typedef struct radix_allocator {
  uint32_t struct_size;
  uint32_t reserved0;
  void *user;
  radix_alloc_fn alloc; /* align is a power of two, at most 4096 */
  radix_free_fn free;
} radix_allocator;

typedef struct radix_executor {
  uint32_t struct_size;
  uint32_t max_workers;               /* threads that may run tasks at once; 0 = unknown */
  void *user;
  radix_parallel_for_fn parallel_for; /* returns when task(task_arg, i) has run for all i in [0, n); tasks never block */
} radix_executor;

/* Tensor view: shape and strides inline, so that no pointer to pointer crosses an FFI. The last dimension is
 * contiguous. stride: in elements; all 0 = compact row-major; that of a dimension of one is not followed. */
typedef struct radix_tensor {
  void *data;
  int32_t dtype;        /* RADIX_F32 ... */
  int32_t device;       /* RADIX_DEV_*; AUTO = the context's */
  int32_t device_index;
  int32_t ndim;         /* <= 5 */
  int64_t shape[5];
  int64_t stride[5];
} radix_tensor;

typedef struct radix_config {
  uint32_t struct_size;
  uint32_t abi;                    /* RADIXATTN_ABI that the caller was compiled with */
  uint32_t flags;                  /* RADIX_CTX_* */
  int32_t device;                  /* RADIX_DEV_AUTO (the CPU), RADIX_DEV_CPU or RADIX_DEV_CUDA */
  int32_t device_index;            /* of CUDA, as the runtime counts */
  int32_t kv_dtype;                /* RADIX_F32, F16 (default), BF16; on CUDA F8_E4M3 and F8_E5M2, too */
  uint32_t num_blocks;             /* 0 = derive from memory_budget */
  uint32_t block_size;             /* tokens per block, 1..256; 0 = 16 */
  uint32_t num_layers;             /* at most 65535, KV heads too; these four may be 0 when METADATA_ONLY */
  uint32_t num_kv_heads;
  uint32_t head_dim;               /* of K: 32..256 in steps of 8 */
  uint32_t head_dim_v;             /* 0 = head_dim */
  uint32_t max_requests;           /* live at once; 0 = 1024; a bound when PREALLOCATE, else where growth starts */
  uint32_t max_blocks_per_request; /* length of a block-table row; 0 = num_blocks */
  uint32_t max_pins;               /* 0 = 64; as max_requests */
  uint32_t max_namespaces;         /* besides the default one; 0 = 64; as max_requests */
  int32_t kv_layout;               /* RADIX_LAYOUT_* */
  int32_t evict_policy;            /* RADIX_EVICT_* */
  int32_t cpu_target;              /* RADIX_CPU_* */
  uint32_t num_threads;            /* > 1: the built-in pool, the calling thread counted; 0 or 1: none. Not with executor */
  int32_t log_level;               /* RADIX_LOG_* */
  uint32_t reserved0;
  uint64_t memory_budget;          /* bytes of KV memory when num_blocks is 0 */
  void *kv_memory;                 /* caller-owned KV memory of the device (64-byte aligned), or NULL = the context's own */
  uint64_t kv_memory_size;         /* bytes; at least radix_ctx_kv_bytes */
  const radix_allocator *host_alloc; /* copied; NULL = malloc. Serves metadata and, on the CPU, the context's own KV memory */
  const radix_executor *executor;    /* copied; NULL = calling thread only, or the built-in pool */
  radix_log_fn log;                  /* NULL = silent */
  void *log_user;
  const void *next;                  /* extension chain; NULL in this version */
  const radix_allocator *device_alloc; /* copied; CUDA: serves the context's own KV memory; NULL = cudaMalloc */
} radix_config;

/* A prompt and where it may share: requests share blocks only when ns and extra_key are both equal. */
typedef struct radix_request_desc {
  uint32_t struct_size;
  uint32_t flags;            /* RADIX_BEGIN_* */
  radix_ns ns;
  uint64_t extra_key;        /* adapter id or salt; different keys never share */
  const radix_token *tokens; /* [num_tokens], read during the call only; may be NULL when num_tokens is 0 */
  uint64_t num_tokens;
} radix_request_desc;

typedef struct radix_match {
  uint32_t struct_size;
  uint32_t blocks_cap;     /* in: room in blocks */
  uint64_t cached_tokens;  /* leading tokens whose K/V is cached and committed */
  uint64_t pending_tokens; /* tokens after those that another live request is computing (SHARE_PENDING) */
  uint64_t num_blocks;     /* blocks that hold these tokens */
  radix_block *blocks;     /* caller's array or NULL: gets the first min(num_blocks, blocks_cap) ids */
} radix_match;

typedef struct radix_request_info {
  uint32_t struct_size;
  uint32_t num_blocks;
  uint64_t num_tokens;       /* reserved length */
  uint64_t known_tokens;     /* leading tokens whose ids are known */
  uint64_t committed_tokens; /* published length, a multiple of block_size */
  uint64_t cached_tokens;    /* taken from the tree at begin */
  uint64_t pending_tokens;   /* borrowed at begin and not yet committed by anybody; see radix_begin_request */
  uint64_t ready_tokens;     /* leading tokens this request need not compute: cached, or borrowed from a live lender */
  uint64_t table_version;    /* changes whenever an entry of the block-table row changes; never reused in a context */
  radix_ns ns;
  uint64_t extra_key;
} radix_request_info;

/* Work that the caller runs, in order, before the step's K/V writes: radix_run_ops, or own kernels. */
typedef struct radix_op {
  int32_t kind;        /* RADIX_OP_COPY: the first num_tokens tokens of src, all layers, to dst */
  radix_block src;
  radix_block dst;
  uint32_t num_tokens;
} radix_op;

typedef struct radix_append {
  radix_req req;
  const radix_token *tokens; /* [num_tokens]; NULL: ids follow later by radix_set_tokens */
  uint32_t num_tokens;
  uint32_t reserved0;
} radix_append;

typedef struct radix_append_out {
  uint32_t struct_size;
  uint32_t flags;          /* in: RADIX_APPEND_PARTIAL */
  int64_t *slots;          /* caller's array or NULL, one per token in item order: block*block_size + offset */
  uint64_t slots_cap;
  radix_op *ops;           /* caller's array; at most one COPY per item */
  uint32_t ops_cap;
  uint32_t num_ops;        /* out; with RADIX_E_BUFFER: needed (PARTIAL: always of the items that took effect) */
  uint64_t num_slots;      /* out; as num_ops */
  uint32_t num_done;       /* out: items [0, num_done) took effect; all or none unless PARTIAL */
  uint32_t short_blocks;   /* out with NO_BLOCKS or QUOTA: how many more blocks must become free, exactly */
  uint32_t evicted_blocks; /* out */
  uint32_t reserved0;
} radix_append_out;

typedef struct radix_commit_item {
  radix_req req;
  uint64_t num_valid_tokens; /* K/V of tokens [0, num_valid_tokens) is written; full blocks of it are published */
} radix_commit_item;

typedef struct radix_remap {
  radix_req req;
  uint32_t index;        /* entry of the request's block-table row */
  radix_block old_block; /* given back */
  radix_block new_block; /* the cached block with the same tokens */
} radix_remap;

typedef struct radix_commit_out {
  uint32_t struct_size;
  uint32_t remaps_cap;       /* worst case: blocks that the items publish for REMAP_DUPLICATES requests, and
                              * duplicates that earlier commits of their families left with them */
  radix_remap *remaps;       /* caller's array or NULL when no request asks for remaps */
  uint32_t num_remaps;       /* out; with RADIX_E_BUFFER: needed in the worst case */
  uint32_t num_duplicates;   /* out: blocks found computed twice */
  uint32_t published_blocks; /* out: blocks that became visible */
  uint32_t reserved0;
} radix_commit_out;

typedef struct radix_stats {
  uint32_t struct_size;
  uint32_t reserved0;
  uint64_t blocks_total;    /* = free + cached + active + deferred */
  uint64_t blocks_free;
  uint64_t blocks_cached;   /* in the tree, unleased: what eviction can free now */
  uint64_t blocks_active;   /* leased, pinned, or private to live requests */
  uint64_t blocks_deferred; /* waiting for radix_epoch_retire (in the tree or given up) */
  uint64_t blocks_pinned;   /* distinct blocks under at least one pin (a part of active) */
  uint64_t requests_live, pins_live, namespaces, tree_nodes;
  uint64_t tokens_queried;  /* over all begins: prompt tokens */
  uint64_t tokens_hit;      /* of these, found cached */
  uint64_t tokens_borrowed; /* of these, borrowed from a pending request */
  uint64_t blocks_evicted, blocks_published, blocks_duplicate, cow_copies;
  uint64_t host_bytes;      /* metadata memory now taken from the allocator */
  uint64_t kv_bytes;        /* KV memory, owned or the caller's */
  uint64_t clock;           /* the logical clock */
} radix_stats;

typedef struct radix_ns_info {
  uint32_t struct_size;
  uint32_t quota_blocks;  /* 0 = unlimited */
  uint64_t blocks_used;   /* cached here or held by its requests; what waits behind a fence to be free is not counted */
  uint64_t blocks_cached; /* of these, evictable now */
  uint64_t requests_live;
} radix_ns_info;

/* One attention launch. Row r of sequence s (s's rows follow the earlier ones; one a sequence in decode) stands at position
 * p = context_lens[s] - q_len + (index within s) and sees keys j in [max(0, p - window + 1), p]. For each:
 *   x = scale * dot(q, k_j);   softcap > 0: x = softcap * tanh(x / softcap);   alibi: x += alibi_slopes[h] * (j - p)
 * out = softmax(x) V with exp(sinks[h]) added once to the denominator. A row that sees no key gives 0 and LSE -inf.
 * K and V must be finite for every token of a sequence: what a row does not see may be multiplied by 0 all the same.
 * The softmax is computed online (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022) with f32 accumulation. */
typedef struct radix_attn {
  uint32_t struct_size;
  uint32_t flags;           /* RADIX_ATTN_* */
  uint32_t layer;           /* of the context's KV memory; ignored with own k_cache and v_cache */
  uint32_t num_seqs;
  uint32_t max_context_len; /* host bound on context_lens, at most 2^30 */
  uint32_t max_query_len;   /* host bound on query lengths; decode: 0 or 1. It and num_rows, each times the query heads of a KV
                             * head: at most 2^31 - 1 */
  uint32_t window;          /* visible tokens, the query's own included; 0 = unlimited */
  float scale;              /* at most 1e30 in size; 0 = 1/sqrt(head_dim) */
  float softcap;            /* 1e-6 to 1e30; 0 = off */
  int32_t kv_layout;        /* RADIX_LAYOUT_* of k_cache and v_cache when they are given */
  radix_tensor q;           /* [num_rows, num_q_heads, head_dim], at most 65535 heads */
  radix_tensor out;         /* [num_rows, num_q_heads, head_dim_v]; must not overlap the inputs, K/V among them */
  radix_tensor lse;         /* [num_rows, num_q_heads] f32, natural log; data may be NULL */
  radix_tensor k_cache;     /* data NULL = the context's own; else [num_blocks, block_size, num_kv_heads, head_dim] (NHD) */
  radix_tensor v_cache;     /*   or [num_blocks, num_kv_heads, block_size, head_dim] (HND), any strides */
  const int32_t *block_tables; /* [num_seqs, block_table_stride] */
  int64_t block_table_stride;
  const int32_t *block_begin;  /* the same as CSR when block_tables is NULL: [num_seqs + 1] */
  const int32_t *block_ids;
  const int32_t *context_lens; /* [num_seqs] tokens with K/V, this launch's new ones included; 0 = empty */
  const int32_t *cu_q_lens;    /* [num_seqs + 1] row offsets, from 0; NULL = decode */
  const float *alibi_slopes;   /* [num_q_heads] or NULL */
  const float *sinks;          /* [num_q_heads] or NULL */
  void *workspace;             /* 64-byte aligned; radix_attn_workspace bytes; one launch at a time uses it */
  uint64_t workspace_size;
  const void *next;            /* NULL in this version */
  const float *k_scale;        /* fp8 K/V: what a stored number is worth, [1] or (SCALE_PER_HEAD) [num_kv_heads]; NULL = 1 */
  const float *v_scale;
  const uint8_t *tree_mask;    /* prefill of speculative trees: [num_rows, tree_mask_stride] bytes; bit j % 8 of byte j / 8
                                * says whether the row sees its sequence's new token j, instead of causal order; or NULL */
  int64_t tree_mask_stride;    /* bytes */
  const radix_plan *plan;      /* radix_plan_attn sets it: the launch follows the plan's work list, and must be of the plan's
                                * heads, head dims and K/V dtype (INVALID). NULL: no list, every sequence reads its own K/V; a
                                * launch of other heads may so use a plan's arrays, with a workspace of its own */
} radix_attn;

/* Rotary embedding (Su et al. 2021) of q (in place) and k, and the write of K and V to their slots, in one pass. */
typedef struct radix_rope_append {
  uint32_t struct_size;
  uint32_t flags;                  /* RADIX_ATTN_* */
  uint32_t layer;
  uint32_t rotary_dim;             /* leading elements of a head that turn, even; 0 = no rotation, only the write */
  int32_t style;                   /* RADIX_ROPE_NEOX | RADIX_ROPE_INTERLEAVED */
  int32_t scaling;                 /* RADIX_ROPE_SCALE_*, as Hugging Face transformers defines them */
  float theta;                     /* 1 or more; 0 = 10000 */
  float scale;                     /* the scaling's "factor", 1 or more; 0 = 1 */
  float low_freq_factor;           /* LLAMA3; 0 = 1 */
  float high_freq_factor;          /* LLAMA3; 0 = 4 */
  float beta_fast;                 /* YARN; 0 = 32 */
  float beta_slow;                 /* YARN; 0 = 1 */
  float attention_factor;          /* YARN; 0 = 0.1 ln(scale) + 1 */
  uint32_t original_max_position;  /* LLAMA3, YARN: required */
  int32_t kv_layout;               /* of k_cache and v_cache when they are given */
  uint32_t reserved0;
  radix_tensor q;                  /* [num_tokens, num_q_heads, head_dim], rotated in place, so apart from k, v and K/V; data may be NULL */
  radix_tensor k;                  /* [num_tokens, num_kv_heads, head_dim], read only */
  radix_tensor v;                  /* [num_tokens, num_kv_heads, head_dim_v], read only */
  radix_tensor k_cache, v_cache;   /* data NULL = the context's own; shapes as in radix_attn; written: no two tokens overlap */
  const int64_t *slots;            /* [num_tokens] from radix_append_slot; negative = padded row: K and V not written, q not turned */
  const int32_t *positions;        /* [num_tokens]; may be NULL when rotary_dim is 0 */
  uint64_t num_tokens;
  const void *next;                /* NULL in this version */
  const float *k_scale;            /* fp8 caches store k / k_scale, saturated; as in radix_attn */
  const float *v_scale;
} radix_rope_append;

/* The radix tree below one (ns, extra_key) as arrays: what a device can search. The root holds nothing and is none of the
 * nodes. Nodes stand breadth first: each behind its parent, the children of one side by side, sorted by the tokens of their
 * first block (compared as signed numbers, the first difference decides), so that a child is found by binary search.
 *   root -+- 0: [7 7|8 8] -+- 2: [1 1]      parent       -1 -1  0  0
 *         |                +- 3: [5 6]      depth_blocks  0  0  2  2
 *         +- 1: [9 9]                       block_begin   0  2  3  4  5
 *   (blocks of two tokens)                  child_begin   0  2  4  4  4  4    of the root, of node 0, of node 1, ... */
typedef struct radix_tree_view {
  uint32_t struct_size;
  uint32_t block_size;    /* tokens a block */
  uint32_t nodes_cap;     /* export, in: room in the arrays by node */
  uint32_t blocks_cap;    /* export, in: room in block_ids, and blocks_cap * block_size in tokens */
  uint32_t num_nodes;     /* export: out */
  uint32_t num_blocks;    /* of all nodes; export: out */
  int32_t *parent;        /* [num_nodes] -1 = the root */
  int32_t *depth_blocks;  /* [num_nodes] blocks above the node's first */
  int32_t *child_begin;   /* [num_nodes + 2] children of node i: nodes [child_begin[i + 1], child_begin[i + 2]); i = -1: of the root */
  int32_t *block_begin;   /* [num_nodes + 1] blocks of node i: [block_begin[i], block_begin[i + 1]) of the next two */
  radix_block *block_ids; /* [num_blocks] */
  radix_token *tokens;    /* [num_blocks, block_size] */
} radix_tree_view;

/* What a plan has room for. All arrays of a plan lie in one piece of memory of the context's device, at addresses that never
 * change. */
typedef struct radix_plan_config {
  uint32_t struct_size;
  uint32_t flags;            /* RADIX_PLAN_* */
  uint32_t max_seqs;         /* sequences of a step, at least 1 */
  uint32_t max_query_tokens; /* query rows of a step, all sequences together; at least max_seqs; 0 = max_seqs (decode) */
  uint32_t max_query_len;    /* query rows of a sequence; 0 = max_query_tokens */
  uint32_t max_context_len;  /* tokens of a sequence, at most 2^30; 0 = max_blocks_per_request * block_size */
  uint32_t num_q_heads;      /* of the launches with this plan; at most 65535 */
  uint32_t window;           /* of the launches, when all have the same; 0 fits every window */
  uint32_t block_size;       /* of the launches' k_cache and v_cache; 0 = the context's; another one: no reqs in steps */
  uint32_t reserved0;
  void *memory;              /* caller-owned memory of the device (64-byte aligned), or NULL = the plan's own */
  uint64_t memory_size;      /* bytes; at least radix_plan_bytes */
  const void *next;          /* NULL in this version */
} radix_plan_config;

/* One step: which sequences, and how many of their last tokens are queries. */
typedef struct radix_plan_desc {
  uint32_t struct_size;
  uint32_t flags;              /* RADIX_PLAN_UPDATE_NO_WAIT */
  uint32_t num_seqs;
  uint32_t reserved0;
  const radix_req *reqs;       /* [num_seqs] live requests; or NULL: the tables or the tree below, of a cache that is not ours */
  const int32_t *q_lens;       /* [num_seqs] the last q_lens[i] tokens are queries, 0..length; NULL = decode, one each (an
                                * empty sequence has a row, too, and its result is the empty state) */
  const int32_t *block_tables; /* without reqs: [num_seqs, block_table_stride], on the host, read during the call only */
  int64_t block_table_stride;
  const int32_t *context_lens; /* without reqs: [num_seqs], on the host; ignored with reqs */
  const radix_tree_view *tree; /* without reqs and tables: a tree on the host; parent, block_begin and block_ids are read */
  const int32_t *radix_indices; /* with tree: [num_seqs] a sequence's blocks are those from the root to this node; -1 = none */
} radix_plan_desc;

/* What the last update made; while the plan has no step, only the sizes of memory are not 0. */
typedef struct radix_plan_info {
  uint32_t struct_size;
  uint32_t num_seqs;
  uint32_t num_query_tokens;
  uint32_t max_context_len;  /* longest of the step */
  uint32_t max_query_len;
  uint32_t num_items;        /* of the work list: over what is shared, or decode's on CUDA; 0 without one */
  uint32_t split_tokens;     /* positions of an item's range in decode's list; 0 without it */
  uint32_t num_states;       /* the work list's room for partial states; 0 = it merges nothing */
  uint32_t changed_rows;     /* block-table rows that were not as the step before */
  uint32_t changed_entries;  /* of these rows */
  uint64_t upload_bytes;     /* copied to the device; 0 on the CPU */
  uint64_t device_bytes;     /* of the plan's memory on the context's device */
  uint64_t host_bytes;       /* besides that: staging, mirrors */
  uint64_t tokens_seen;      /* K/V positions that the step's sequences have in sight, all together (windows aside) */
  uint64_t tokens_read;      /* of these, read by launches with this plan: each shared run once for all rows of an item. Equal
                              * to tokens_seen when nothing is shared */
  uint32_t num_nodes;        /* of the step's tree of shared blocks, its sequences' own ends not counted */
  uint32_t num_shared;       /* of these, read once for all */
} radix_plan_info;

/* Prompts to look up in a radix_tree_view, one after the other in one array. */
typedef struct radix_match_batch {
  uint32_t struct_size;
  uint32_t num_prompts;
  const radix_token *prompts;  /* [num_tokens] */
  uint64_t num_tokens;
  const int64_t *prompt_begin; /* [num_prompts + 1] prompt i is prompts[prompt_begin[i] .. prompt_begin[i + 1]) */
  int32_t *out_nodes;          /* [num_prompts] the deepest node of which at least a block matches; -1 = none */
  int32_t *out_tokens;         /* [num_prompts] leading tokens that match, in whole blocks; the match may end inside its node */
  int32_t *out_tables;         /* [num_prompts, table_stride] the blocks that hold them, as far as the row goes, then -1; or NULL */
  int64_t table_stride;
} radix_match_batch;

/* Choosing a token from each row of logits x. A row's scores are made and cut in this order (sources: docs/sampling.md):
 *   allowed      x = -inf where the token's bit of `allowed` is 0
 *   bias         x += each of the row's biases for the token, in their order; -inf bans it
 *   repetition   once for a token of the row's history: x = x > 0 ? x / r : x * r                       (r = repetition_penalty)
 *   frequency,   for a token that stands n > 0 times in the output part of the history:
 *   presence       x -= n * frequency_penalty + presence_penalty
 *   temperature  p = softmax(x / temperature); 0: the highest x wins, ties by the lowest id, and what follows is not looked at
 *   top_k        the k highest x stay, ties by the lowest id
 *   top_p        the likeliest that together have at least top_p of what is left stay, ties by the lowest id
 *   min_p        tokens with p >= min_p * the highest p stay
 *   typical_p    the tokens with |-ln p - entropy| smallest that together have at least typical_p stay, ties by the lowest id
 *   draw         from what stayed, renormalised, by Philox 4x32-10 with key seeds[row] and counter positions[row]
 * Probabilities are integers, multiples of 2^-40 of the likeliest token's, so sums have no order: a row's token is the same on
 * every backend, in every batch. What rounds to 0 is gone: never drawn, and not among what stays. Shares count what is left at
 * that point; top_p and typical_p of 1 are off, min_p of 1 leaves the highest alone. A row with out_status other than
 * RADIX_ROW_OK has token -1, top tokens -1 and log-probabilities of NaN; of several reasons PARAMETER comes before NAN, NAN before
 * EMPTY. All parameters of a row are checked, also those that its temperature 0 leaves unused; a NaN or +inf logit counts where
 * `allowed` rules it out, too, and so does a score that bias or penalties make NaN or +inf. */
typedef struct radix_sample {
  uint32_t struct_size;
  uint32_t flags;                  /* RADIX_SAMPLE_* */
  uint32_t num_top;                /* likeliest tokens to report for each row, 0..128 and at most vocab */
  uint32_t reserved0;
  radix_tensor logits;             /* [num_rows, vocab] f32, f16 or bf16, read only; vocab at most 2^20 */
  const float *temperature;        /* [num_rows], as all of these; >= 0; NULL = 0 for every row: greedy */
  const int32_t *top_k;            /* 0 = off, as NULL; here and below */
  const float *top_p;              /* (0, 1] */
  const float *min_p;              /* (0, 1] */
  const float *typical_p;          /* (0, 1] */
  const float *repetition_penalty; /* > 0; 1 = off */
  const float *presence_penalty;   /* any finite number */
  const float *frequency_penalty;
  const radix_token *history;      /* [num_history] prompt, then output so far, row after row; NULL without penalties */
  const int64_t *history_begin;    /* [num_rows + 1] row i's: [history_begin[i], history_begin[i + 1]) */
  const int64_t *output_begin;     /* [num_rows] where its output begins, an index of history; NULL: all of it is prompt */
  uint64_t num_history;
  const radix_token *bias_tokens;  /* [num_biases], or NULL */
  const float *bias_values;        /* [num_biases] finite, or -inf */
  const int64_t *bias_begin;       /* [num_rows + 1] */
  uint64_t num_biases;
  const uint32_t *allowed;         /* [num_rows, allowed_stride] bit t % 32 of word t / 32; NULL = every token (guided decoding) */
  int64_t allowed_stride;          /* words */
  const uint64_t *seeds;           /* [num_rows]; NULL = 0 for every row */
  const uint64_t *positions;       /* [num_rows] the tokens that stand before the one to draw: never twice with a seed; NULL = 0 */
  radix_token *out_tokens;         /* [num_rows] */
  float *out_logprobs;             /* [num_rows] ln p of the token in softmax(logits), before everything above; or NULL. With
                                    * FINAL_LOGPROBS of what it was drawn from: 0 when greedy */
  radix_token *out_top_tokens;     /* [num_rows, num_top] by falling logit (FINAL_LOGPROBS: by falling score, of what stayed, then
                                    * -1), ties by the lowest id; NULL when num_top is 0 */
  float *out_top_logprobs;         /* [num_rows, num_top]; of a -1: -inf */
  int32_t *out_status;             /* [num_rows] RADIX_ROW_*; NULL: on the CPU the first row that is not OK makes the call INVALID,
                                    * with every other row done */
  void *workspace;                 /* 64-byte aligned; radix_sample_workspace bytes; one launch at a time uses it */
  uint64_t workspace_size;
  const void *next;                /* NULL in this version */
} radix_sample;

/* Speculative decoding: which drafted tokens stand, and the token that follows them. Each sequence has a tree of nodes, rows
 * [node_begin[s], node_begin[s + 1]) of the target's logits. Its first node is the root: the last token that stands, whose
 * logits say what comes next. Every other node is a drafted token behind its parent. From the root on: a child whose token
 * stands is the next node; where none does, or there is none, the token that was drawn in their place is the last one.
 *   without draft_probs (n-grams, a fixed tree): a token is drawn from the target as radix_sample_launch would, and the child
 *     that has it stands. So tokens are those of decoding without drafts, with the same seeds and positions.
 *   with draft_probs, rejection sampling (Leviathan et al. 2023; Chen et al. 2023; siblings: SpecInfer, Miao et al. 2024): the
 *     children of a node, in order, were drawn from q. A child t stands with probability min(1, p(t) / q(t)); if it
 *     does not, p becomes the normalised max(p - q, 0) (NO_REPLACEMENT: and q loses t), and the next one is looked at.
 * Either way the tokens have the target's distribution, that of radix_sample's cuts. Greedy targets are exact, too. Drafts for
 * draft_probs must be drawn with other seeds than the target's: a residual is drawn with those, and must not depend on the draft.
 * Whether child number i of a node stands is drawn in stream 1 + i of the node's seed and position, tokens in stream 0. A drafted
 * token outside of the vocabulary does not stand and leaves p alone; so does every child while q has nothing (left) to draw from,
 * and p stays when nothing would be left of it. Draft probabilities count in multiples of 2^-40, from 0 to 1; NaN counts 0. */
typedef struct radix_verify {
  uint32_t struct_size;
  uint32_t flags;                  /* RADIX_VERIFY_* */
  uint32_t num_seqs;
  uint32_t max_tokens;             /* of a sequence and step: room in a row of the outputs; at least its deepest path + 1 */
  const radix_sample *target;      /* rows: all nodes of all sequences; positions count from a node's depth. outputs, num_top
                                    * and workspace of it are not used */
  const int32_t *node_begin;       /* [num_seqs + 1] cut to the rows that there are; a sequence without nodes is a PARAMETER */
  const radix_token *draft_tokens; /* [num_rows]; a root's is not read */
  const int32_t *parents;          /* [num_rows] counted from the sequence's root, less than the node's own; a root's is not
                                    * read; NULL: each node's parent is the one before it (a chain) */
  radix_tensor draft_probs;        /* [num_rows, vocab] f32: row i is what the children of node i were drawn from; or data NULL */
  radix_token *out_tokens;         /* [num_seqs, max_tokens] those that stand, then the new one; -1 behind */
  int32_t *out_num_tokens;         /* [num_seqs] at least 1; 0 when out_status is not OK */
  int32_t *out_nodes;              /* [num_seqs, max_tokens] node, counted from the root's 0, whose logits gave each token: K/V of
                                    * these nodes stays; -1 behind; or NULL */
  int32_t *out_status;             /* [num_seqs] as in radix_sample, of the first node on the way that is not OK */
  void *workspace;                 /* as in radix_sample; radix_verify_workspace bytes */
  uint64_t workspace_size;
  const void *next;                /* NULL in this version */
} radix_verify;

/* One matrix product of a layer, for a host that brings its own: y = x W^T + bias, or y += that. Devices and strides are filled
 * in; x and y may be of other dtypes than the weights (f32 between the steps on the CPU), and lie apart. */
typedef struct radix_gemm {
  uint32_t struct_size;
  uint32_t flags;      /* RADIX_GEMM_ADD */
  radix_tensor x;      /* [rows, in] */
  radix_tensor weight; /* [out, in] */
  radix_tensor bias;   /* [out], data NULL = none */
  radix_tensor y;      /* [rows, out] */
} radix_gemm;
/* Enqueues the product on the stream (on the CPU: does it). Anything but RADIX_OK makes the launch RADIX_E_CALLBACK. */
typedef radix_status (RADIX_CALL *radix_gemm_fn)(void *user, const radix_gemm *g, radix_stream s);

/* The attention block of a model's layer, for the rows of a step: rows [0, D) are decoding sequences, one each, the rows
 * behind them are prefill, in order of their sequences. Either part may be missing.
 *   h = norm ? x / rms(x) * norm : x                 rms(x) = sqrt(mean(x^2) + norm_eps)    (Zhang & Sennrich 2019)
 *   q, k, v = h W_qkv^T + b_qkv                      or three products with w_q, w_k, w_v
 *   q, k = per head: / rms * q_norm, * k_norm        when given (Qwen3, Gemma 3)
 *   rotary embedding of q and k; k and v to their slots; decode and prefill over the block tables
 *   y = heads W_o^T + b_o                            or y += that (RADIX_LAYER_ADD)
 * What lies between the steps is f32 on the CPU and of x's dtype on CUDA; sums are f32. On the CPU a row of a product or a norm
 * has the same bits however many rows and threads there are, so that with RADIX_ATTN_BATCH_INVARIANT in both parts tokens
 * computed over a cached prefix equal those computed without, bit for bit. A part's plan works as in the attention launches; its
 * lists make the workspace larger: size it with the plan set. Rows of y that are padding of a plan have no meaning.
 * Weights are borrowed: read where they lie, in [out, in] order, rows in any stride.
 * Tensor parallel: a rank has the rows of w_q, w_k, w_v of its heads, the columns of w_o (a stride says so), b_o on one rank only
 * (RADIX_LAYER_ADD, too), and a context with its own KV heads. y is then a part of a sum: the host's all-reduce goes right
 * after the launch. Ranks that make the same calls get the same block ids. */
typedef struct radix_layer {
  uint32_t struct_size;
  uint32_t flags;                       /* RADIX_LAYER_* */
  uint32_t num_q_heads;                 /* of this rank; a multiple of the KV heads */
  float norm_eps;                       /* 0 = 1e-6 */
  radix_tensor x;                       /* [num_rows, hidden] f32, f16 or bf16 */
  radix_tensor y;                       /* [num_rows, hidden], dtype as x; x itself, or apart from it */
  radix_tensor norm;                    /* [hidden], or data NULL; weights are f32, f16 or bf16, on CUDA of x's dtype */
  radix_tensor w_qkv;                   /* [num_q_heads*head_dim + num_kv_heads*(head_dim + head_dim_v), hidden]: q, k, v; or NULL: */
  radix_tensor w_q, w_k, w_v;           /* its three parts, apart */
  radix_tensor b_qkv, b_q, b_k, b_v;    /* biases, shaped as the weights' rows; data NULL = none */
  radix_tensor q_norm, k_norm;          /* [head_dim], or data NULL */
  radix_tensor w_o;                     /* [hidden, num_q_heads*head_dim_v] */
  radix_tensor b_o;                     /* [hidden], or data NULL */
  const radix_rope_append *decode_rope; /* of the decode part: its q, k, v are not used; num_tokens = D; or NULL with decode */
  const radix_attn *decode;             /* q, out and workspace are not used; num_seqs = D */
  const radix_rope_append *prefill_rope; /* of the prefill part, likewise; arrays count from its first row */
  const radix_attn *prefill;            /* both parts have K/V of the same heads and head dims, of this layer */
  radix_gemm_fn gemm;                   /* NULL: the library's own (CPU), cuBLASLt (CUDA) */
  void *gemm_user;
  void *workspace;                      /* 64-byte aligned; radix_layer_workspace bytes; one launch at a time uses it */
  uint64_t workspace_size;
  const void *next;                     /* NULL in this version */
} radix_layer;

/* ---- library ------------------------------------------------------------------------------------------------ */

RADIX_API(uint32_t) radix_version(void) RADIX_NOEXCEPT;              /* [F] RADIXATTN_VERSION of the library */
RADIX_API(const char *) radix_version_string(void) RADIX_NOEXCEPT;   /* [F] static, "0.1.0" */
RADIX_API(uint32_t) radix_abi(void) RADIX_NOEXCEPT;                  /* [F] RADIXATTN_ABI of the library */
RADIX_API(const char *) radix_build_info(void) RADIX_NOEXCEPT;       /* [F] static: compiler, targets, options */
RADIX_API(const char *) radix_status_name(radix_status st) RADIX_NOEXCEPT; /* [F] static, never NULL: "INVALID" */

/* [F] Copies this thread's last failure message into buf (cut to cap - 1 bytes, always terminated when cap > 0) and
 * returns its full length. buf may be NULL when cap is 0. The message stays until the next failure. */
RADIX_API(size_t) radix_last_error(char *buf, size_t cap) RADIX_NOEXCEPT;
/* [F] The native code of this thread's last failure (cudaError_t, errno), 0 when it had none. */
RADIX_API(int32_t) radix_error_detail(void) RADIX_NOEXCEPT;
/* [F] Devices of a kind (RADIX_DEV_*): OK with 0 when there is no driver; the CPU counts 1. */
RADIX_API(radix_status) radix_device_count(int32_t device, int32_t *out_count) RADIX_NOEXCEPT;
/* [F] The struct sizes this library was built with, for bindings: name is "radix_config", ...; 0 = unknown name. */
RADIX_API(size_t) radix_struct_size(const char *name) RADIX_NOEXCEPT;
/* [F] A borrowed view of a DLTensor (dlpack.h, v0 or v1 ABI; pass the DLTensor itself, not the managed one). INVALID:
 * more than 5 dimensions, the last one not contiguous, all strides 0, a byte_offset over PTRDIFF_MAX or past the end of
 * memory; UNSUPPORTED: dtype or device without a counterpart here. */
RADIX_API(radix_status) radix_tensor_from_dlpack(const void *dl_tensor, radix_tensor *out) RADIX_NOEXCEPT;

/* ---- context ------------------------------------------------------------------------------------------------ */

/* [F] Creates a context; *out = NULL on failure. Takes the KV memory and the fixed arrays: 8 + 40/block_size bytes a token of
 * capacity. Tree nodes (about 190 bytes) and request rows come as they are needed; with PREALLOCATE all of them now:
 * 8 + 390/block_size bytes a token, and max_requests * max_blocks_per_request * 4 bytes of rows.
 * Errors: INVALID, VERSION, NOMEM, UNSUPPORTED (cpu_target, device), NO_DEVICE. */
RADIX_API(radix_status) radix_ctx_create(const radix_config *cfg, radix_ctx **out) RADIX_NOEXCEPT;
/* Frees everything and sets *ctx = NULL; never fails; NULL is fine; every id of the context dies. No other call on the
 * context may run or follow. */
RADIX_API(void) radix_ctx_destroy(radix_ctx **ctx) RADIX_NOEXCEPT;
/* [F] The configuration with every default resolved. */
RADIX_API(radix_status) radix_ctx_get_config(const radix_ctx *ctx, radix_config *out) RADIX_NOEXCEPT;
/* [F] Bytes of KV memory that a configuration needs (for kv_memory). num_blocks must be set. */
RADIX_API(radix_status) radix_ctx_kv_bytes(const radix_config *cfg, uint64_t *out) RADIX_NOEXCEPT;
/* [F] Borrowed views of a layer's K and V: shape by kv_layout, valid until destroy. KV memory is, per layer, K then V, each
 * [num_blocks, ...] and each starting on a multiple of 64 bytes. Either output may be NULL. STATE: METADATA_ONLY. */
RADIX_API(radix_status) radix_ctx_kv_tensor(const radix_ctx *ctx, uint32_t layer, radix_tensor *out_k,
                                            radix_tensor *out_v) RADIX_NOEXCEPT;

/* ---- control plane: host only, never touches a device --------------------------------------------------------- */

/* [C] Match and lease, atomically: finds the longest cached prefix of d->tokens in whole blocks, and makes a request whose
 * length is that prefix. Nothing leased is evicted. At most num_tokens - 1 tokens match unless MATCH_ALL: the last
 * token must run to give logits; when that cuts a block, the first append copies it (copy-on-write).
 * SHARE_PENDING: continues with full blocks that one other live request of the same ns and extra_key has
 * reserved with the same tokens, when its published part ends where the match ends (requests that
 * themselves borrow do not lend). K/V is written layer by layer
 * before attention reads it, so borrower and lender may run in the same step, never the borrower in an
 * earlier one. If the lender is freed or truncated before somebody commits these blocks, the promise is
 * broken: ready_tokens of radix_get_request falls back, and the (first) borrower computes from there
 * into the slots its table already names. The lender may be anybody's request: where several schedulers
 * use one context, compare m->blocks with the tables of your own before you trust that they are computed.
 * m may be NULL. Errors: INVALID, STALE (ns), NOMEM, FULL. Cost: O(num_tokens) compares plus O(tree depth). */
RADIX_API(radix_status) radix_begin_request(radix_ctx *ctx, const radix_request_desc *d, radix_req *out,
                                            radix_match *m) RADIX_NOEXCEPT;
/* [C] The longest committed prefix, not capped, without a lease: what it names may be evicted by the next call.
 * Counts as a use. Flags: none. Cost as radix_begin_request. */
RADIX_API(radix_status) radix_match_prefix(radix_ctx *ctx, const radix_request_desc *d, radix_match *m) RADIX_NOEXCEPT;
/* [C] As radix_match_prefix, and changes nothing at all: no use is counted. */
RADIX_API(radix_status) radix_peek_prefix(radix_ctx *ctx, const radix_request_desc *d, radix_match *m) RADIX_NOEXCEPT;

/* [C] Reserves slots for new tokens of n requests (each at most once in a call). Plans first: when free and evictable
 * blocks do not suffice, returns NO_BLOCKS (or QUOTA) with the exact shortfall and nothing has changed; with
 * APPEND_PARTIAL the items before the first that fails take effect. Evicts as much as needed and no more. A
 * last block that is shared is copied on write: run the ops before any K/V is written into blocks that this or
 * a later call hands out (steps on several threads: hold one lock over append and ops, or use DEFER_FREE
 * with an epoch begun before the append and retired after the ops: the source waits for it). Slots of a request are
 * where its tokens [old length, new length) go. Errors: INVALID, STALE, STATE (ids of earlier tokens
 * unknown), NO_BLOCKS, QUOTA, BUFFER, FULL (row longer than max_blocks_per_request), NOMEM.
 * Cost: O(1) a token, O(log nodes) an evicted block. */
RADIX_API(radix_status) radix_append_slot(radix_ctx *ctx, const radix_append *items, uint32_t n,
                                          radix_append_out *out) RADIX_NOEXCEPT;
/* [C] Supplies ids of tokens appended without: pos must be at most known_tokens and pos + n at most num_tokens; tokens
 * already known must be equal. Errors: STALE, INVALID (range), STATE (other id known). */
RADIX_API(radix_status) radix_set_tokens(radix_ctx *ctx, radix_req r, uint64_t pos, const radix_token *t,
                                         uint64_t n) RADIX_NOEXCEPT;
/* [C] Publishes: the caller says that K/V of the first num_valid_tokens tokens of each request is written (or is ordered
 * before whoever will read it), and full blocks of it become visible to matches. Blocks that another
 * request published meanwhile with the same tokens are duplicates: a request begun with
 * REMAP_DUPLICATES gets the cached block in its row and gives its own back (listed in remaps);
 * any other keeps its row unchanged and gives the duplicate back when freed. Requests that share the
 * blocks (forks, borrowers) are committed along; they get their remaps from the next commit that names them. out may be
 * NULL when no remap is asked for. All items take effect or none. Errors: STALE, INVALID (beyond num_tokens), STATE
 * (ids unknown), BUFFER, NOMEM.
 * Cost: O(new blocks * block_size), O(log nodes), O(nodes above) and O(family). */
RADIX_API(radix_status) radix_commit(radix_ctx *ctx, const radix_commit_item *items, uint32_t n,
                                     radix_commit_out *out) RADIX_NOEXCEPT;
/* [C] Block-table rows and lengths: tables[i*row_stride ..] gets the physical blocks of reqs[i], then -1 to row_stride.
 * context_lens[i] = num_tokens (may be NULL). row_versions (may be NULL) in: the version that row i holds
 * now, 0 = none; rows that are current are not written again; out: the new version. Do not refill a
 * buffer that an asynchronous copy may still read. Errors: STALE, BUFFER (row_stride too small),
 * INVALID. A failed call has written nothing. */
RADIX_API(radix_status) radix_get_block_tables(radix_ctx *ctx, const radix_req *reqs, uint32_t n, int32_t *tables,
                                               int64_t row_stride, int32_t *context_lens,
                                               uint64_t *row_versions) RADIX_NOEXCEPT;
/* [C] Lengths, versions and promises of a request. */
RADIX_API(radix_status) radix_get_request(radix_ctx *ctx, radix_req r, radix_request_info *out) RADIX_NOEXCEPT;
/* [C] The known token ids of a request, [0, *n); BUFFER with *n = needed when cap is too small. */
RADIX_API(radix_status) radix_get_tokens(radix_ctx *ctx, radix_req r, radix_token *out, uint64_t cap,
                                         uint64_t *n) RADIX_NOEXCEPT;
/* [C] n children that share every block of the parent, without copying; the first append into a shared, partly filled
 * block emits a COPY. All of the parent's token ids must be known (else STATE). All children or none.
 * Errors: STALE, STATE (also: the parent borrows), FULL, NOMEM. Cost: O(blocks) a child. */
RADIX_API(radix_status) radix_fork(radix_ctx *ctx, radix_req parent, uint32_t n, radix_req *out) RADIX_NOEXCEPT;
/* [C] Cuts a request to its first new_len tokens, exactly, also into committed blocks (the next append copies). Never
 * fails for lack of memory. Errors: STALE, INVALID (new_len beyond num_tokens). */
RADIX_API(radix_status) radix_truncate(radix_ctx *ctx, radix_req r, uint64_t new_len) RADIX_NOEXCEPT;
/* [C] Ends a request: the lease is released; committed blocks stay cached, others go back to the pool (at once, or after
 * the fence with DEFER_FREE). flags: RADIX_FREE_DISCARD (the
 * tail of the published path, by tree node: a node that others matched or lease stays, and so does what a
 * truncate had cut off before). A second free is STALE and has no effect. Never fails
 * for lack of memory. */
RADIX_API(radix_status) radix_free_request(radix_ctx *ctx, radix_req r, uint32_t flags) RADIX_NOEXCEPT;
/* [C] Evicts up to want unleased blocks of a namespace (or RADIX_NS_ALL) by the policy; *freed (may be NULL) says how many.
 * Fewer than want is no error. Cost: O(log nodes) a block, from everywhere as from one namespace. */
RADIX_API(radix_status) radix_evict(radix_ctx *ctx, radix_ns ns, uint32_t want, uint32_t *freed) RADIX_NOEXCEPT;
/* [C] Keeps the cached prefix of d->tokens (whole blocks, not capped) from eviction until radix_unpin. m (may be NULL) says
 * how much is held; with nothing cached the pin holds nothing and is still valid. Errors as begin. */
RADIX_API(radix_status) radix_pin_prefix(radix_ctx *ctx, const radix_request_desc *d, radix_pin *out,
                                         radix_match *m) RADIX_NOEXCEPT;
RADIX_API(radix_status) radix_unpin(radix_ctx *ctx, radix_pin p) RADIX_NOEXCEPT; /* [C] STALE: not a live pin */
/* [C] Forgets everything cached in a namespace (or RADIX_NS_ALL). BUSY when requests or pins live there. */
RADIX_API(radix_status) radix_clear(radix_ctx *ctx, radix_ns ns) RADIX_NOEXCEPT;
/* [C] A namespace: its requests never see another's blocks. name: 1..128 bytes, any bytes, compared with their length;
 * a name in use is STATE. quota_blocks bounds the blocks it may hold, 0 = unlimited. */
RADIX_API(radix_status) radix_ns_create(radix_ctx *ctx, const char *name, size_t name_len, uint32_t quota_blocks,
                                        radix_ns *out) RADIX_NOEXCEPT;
/* [C] Clears and removes a namespace. BUSY when requests or pins live there; INVALID for the default one. */
RADIX_API(radix_status) radix_ns_destroy(radix_ctx *ctx, radix_ns ns) RADIX_NOEXCEPT;
RADIX_API(radix_status) radix_ns_get_info(radix_ctx *ctx, radix_ns ns, radix_ns_info *out) RADIX_NOEXCEPT; /* [C] */
/* [C] DEFER_FREE: starts the next epoch of launches and returns its number. Blocks given up from now on may still be read
 * by launches of this epoch and are not used again before it is retired. STATE without DEFER_FREE. */
RADIX_API(radix_status) radix_epoch_begin(radix_ctx *ctx, radix_epoch *out) RADIX_NOEXCEPT;
/* [C] All launches of epochs <= upto have finished: what waited for them is free (or evictable) again. INVALID: an epoch
 * that has not begun. Retiring an older epoch again is fine. */
RADIX_API(radix_status) radix_epoch_retire(radix_ctx *ctx, radix_epoch upto) RADIX_NOEXCEPT;
RADIX_API(radix_status) radix_get_stats(radix_ctx *ctx, radix_stats *out) RADIX_NOEXCEPT; /* [C] */
/* [C] Walks every invariant; INTERNAL with a message at the first broken one. Cost: O(blocks + nodes + rows). */
RADIX_API(radix_status) radix_check(radix_ctx *ctx) RADIX_NOEXCEPT;

/* ---- plans: one host call a step, used by every layer --------------------------------------------------------------
 * A plan turns a step's requests into block tables, lengths, slots, positions and work lists, on the context's
 * device. Lists follow the tree of what the step's sequences share, where reading that once for all of them pays
 * (docs/radix_attention.md), but on CUDA not with f32 K/V; a step without such a list is launched as one without sharing.
 * Only what changed since the step before is sent: one or two copies from pinned memory (with BOUNDS up to four) and
 * one small kernel, on the stream given, which must be the launches' own or be ordered before them and behind those of
 * the step before. Two staging buffers take turns, so an update waits only when the device is two uploads behind.
 * Updates of a plan do not run at the same time as each other, nor as a call that reads the plan; plans of one context
 * are independent. Table entries behind a sequence's blocks are of no meaning (not -1 as in radix_get_block_tables).
 * What plans take is in no figure of radix_stats. */

/* [F] Bytes of device memory that a plan needs (for memory). Errors as radix_plan_create. */
RADIX_API(radix_status) radix_plan_bytes(const radix_ctx *ctx, const radix_plan_config *cfg, uint64_t *out) RADIX_NOEXCEPT;
/* [F] Makes an empty plan; *out = NULL on failure. On CUDA three times max_seqs * ceil(max_context_len / block_size) table
 * entries are kept on the host, and two on the device. Errors: INVALID, VERSION, STATE (the context has no shape), BUFFER
 * (memory_size), NOMEM, DEVICE. */
RADIX_API(radix_status) radix_plan_create(radix_ctx *ctx, const radix_plan_config *cfg, radix_plan **out) RADIX_NOEXCEPT;
/* Frees the plan and sets *plan = NULL; never fails; NULL is fine. Before the context's end; on CUDA after the last update,
 * and the last launch that uses the plan, have finished. */
RADIX_API(void) radix_plan_destroy(radix_plan **plan) RADIX_NOEXCEPT;
/* [C] Plans a step. The stream must not be capturing (STATE). A failed call leaves the plan as it was, except when the device
 * refused the step's upload (DEVICE, DEVICE_LOST, UNSUPPORTED): then the plan has no step, and the next update sends everything.
 * Errors: INVALID (a length, a query length, a block id of a foreign table, reqs for a plan of another block_size), STALE,
 * BUFFER (more sequences, query tokens or positions than the plan has room for: named), BUSY (NO_WAIT), DEVICE.
 * Cost: O(1) a request whose blocks did not change, O(row) for the others, O(query tokens) on the CPU; O(all rows) when what is
 * shared changes. */
RADIX_API(radix_status) radix_plan_update(radix_plan *plan, const radix_plan_desc *d, radix_stream s) RADIX_NOEXCEPT;
/* [F] Sets in *io what the plan knows: num_seqs, max_context_len, max_query_len, block_tables, block_table_stride,
 * context_lens, cu_q_lens (NULL for decode), workspace, workspace_size, plan and, as the plan was made,
 * RADIX_ATTN_BATCH_INVARIANT; block_begin and block_ids become NULL; the rest stays. The pointers stay right after later
 * updates; sizes do only with RADIX_PLAN_BOUNDS. q has a row for each sequence (decode) or query token: with BOUNDS max_seqs,
 * or max_query_tokens; rows of decode beyond the step's sequences get the empty state, rows of prefill stay as they are.
 * A launch with plan set is held to these fields (the workspace may be another, of radix_attn_workspace bytes), to the
 * plan's num_q_heads and to the context's num_kv_heads, head dims and kv_dtype, and q to these rows (prefill: at least), in
 * steps that share nothing, too (INVALID); and to the kind of the last update (STATE). A graph captured for one kind of step
 * is replayed on that kind only. STATE: no step. */
RADIX_API(radix_status) radix_plan_attn(const radix_plan *plan, radix_attn *io) RADIX_NOEXCEPT;
/* [F] Sets slots, positions and num_tokens: each query token's own, in order of the rows of q, as many as q has rows in
 * radix_plan_attn. An empty sequence's row in decode, and padding, have slot -1. K/V memory of the caller's must have the
 * plan's block_size, which nobody can check here. STATE: no step. */
RADIX_API(radix_status) radix_plan_rope(const radix_plan *plan, radix_rope_append *io) RADIX_NOEXCEPT;
RADIX_API(radix_status) radix_plan_get_info(const radix_plan *plan, radix_plan_info *out) RADIX_NOEXCEPT; /* [F] */
/* [F] The step's tree of shared blocks: which sequences begin with the same blocks of the pool, by block id, whether committed or
 * not. Nodes as in radix_tree_export, breadth first, a parent before its children; tokens may be NULL and
 * is not written, nor are children sorted. radix_indices [num_seqs]: the deepest node above each sequence, -1 = none. A
 * sequence's own blocks belong to no node. BUFFER with num_nodes and num_blocks = needed; STATE: no step. */
RADIX_API(radix_status) radix_plan_tree(const radix_plan *plan, radix_tree_view *io, int32_t *radix_indices) RADIX_NOEXCEPT;

/* ---- what is shared: for schedulers and people ------------------------------------------------------------------ */

/* [C] The live requests that share the longest prefix with d->tokens, exact to the token, by ascending index: *shared_tokens
 * its length, *n how many requests share it (0 when the length is 0); the first min(*n, cap) ids go to out (may be
 * NULL). Cost: O(live requests * shared prefix). */
RADIX_API(radix_status) radix_find_shared(radix_ctx *ctx, const radix_request_desc *d, radix_req *out, uint32_t cap,
                                          uint32_t *n, uint64_t *shared_tokens) RADIX_NOEXCEPT;
/* [C] Writes the tree with its nodes, edges, requests below each node and savings, as RADIX_GRAPH_TEXT, _JSON or _DOT, in
 * pieces to fn. CALLBACK when fn returns less than it was given. */
RADIX_API(radix_status) radix_sharing_graph(radix_ctx *ctx, radix_write_fn fn, void *user, int32_t format) RADIX_NOEXCEPT;

/* [C] Copies the committed tree below (ns, extra_key) to the caller's arrays. BUFFER with num_nodes and num_blocks = needed
 * when a capacity is too small: a first call with none asks for them. With no nodes the arrays may be NULL. It is a
 * picture of this moment: what it names may be evicted by the next call, unless leased or pinned. Errors: STALE (ns), BUFFER,
 * INVALID (NULL array). Allocates nothing.
 * Cost: O(tokens) copies plus O(nodes log children) compares of blocks. */
RADIX_API(radix_status) radix_tree_export(radix_ctx *ctx, radix_ns ns, uint64_t extra_key,
                                          radix_tree_view *io) RADIX_NOEXCEPT;

/* ---- data plane: no tree, no lock, no allocation ------------------------------------------------------------------
 * On the CPU a launch has finished when it returns. Launches may run at the same time on several threads when what they
 * write does not overlap and each has its own workspace.
 * On CUDA a launch is enqueued on its stream and returns; it waits for nothing, so it can be captured into a graph (bounds
 * such as max_context_len size it, arrays on the device say what it does). Every pointer of radix_attn, radix_rope_append,
 * radix_match_batch and its tree is a device pointer, tables and lengths too; nobody looks at what they hold but the kernels,
 * for which a block id, slot, length or row offset outside of its range is no memory: they read and write nothing there. Lists
 * of blocks and operations are host arrays, read during the call only. DEVICE: the runtime refused, see
 * radix_error_detail; DEVICE_LOST: an earlier kernel failed, and every later launch of the context does. */

/* [D] Runs the operations of an append, in order. Block ids are checked first: INVALID writes nothing. */
RADIX_API(radix_status) radix_run_ops(radix_ctx *ctx, const radix_op *ops, uint32_t n, radix_stream s) RADIX_NOEXCEPT;
/* [D] Copies whole blocks, all layers, in order; src_dst_pairs: n pairs {src, dst}. */
RADIX_API(radix_status) radix_copy_blocks(radix_ctx *ctx, const radix_block *src_dst_pairs, uint32_t n,
                                          radix_stream s) RADIX_NOEXCEPT;
/* [D] Fills whole blocks with zeros, all layers. Block ids are checked first: INVALID writes nothing. */
RADIX_API(radix_status) radix_zero_blocks(radix_ctx *ctx, const radix_block *blocks, uint32_t n, radix_stream s) RADIX_NOEXCEPT;
/* [F] Bytes that n blocks take in a host image: for each block, for each layer, K then V. */
RADIX_API(radix_status) radix_swap_bytes(const radix_ctx *ctx, uint32_t n, uint64_t *out) RADIX_NOEXCEPT;
/* [D] K/V of n blocks to a host buffer (BUFFER when cap is too small), and back (INVALID when len is not exactly that).
 * CUDA: asynchronous when the buffer is pinned, and then it must stay as it is until the stream is done; layer by layer. */
RADIX_API(radix_status) radix_swap_out(radix_ctx *ctx, const radix_block *blocks, uint32_t n, void *host, uint64_t cap,
                                       radix_stream s) RADIX_NOEXCEPT;
RADIX_API(radix_status) radix_swap_in(radix_ctx *ctx, const radix_block *blocks, uint32_t n, const void *host,
                                      uint64_t len, radix_stream s) RADIX_NOEXCEPT;
/* [D] The longest prefix of each prompt in the tree of t: what radix_peek_prefix says, for many prompts in one launch. t is
 * radix_tree_export's, its arrays on the CPU, or their copies on the device; parent and depth_blocks are not read and may be
 * NULL, and so may block_ids without out_tables. Whatever the arrays hold, nothing beyond them is read, and the
 * lookup ends. Errors: INVALID (shape, NULL; on the CPU also prompt_begin, which must never fall nor pass num_tokens; on CUDA
 * it is cut there). Cost: O(log children) compares of a block a node, then O(matched tokens). */
RADIX_API(radix_status) radix_match_batch_launch(radix_ctx *ctx, const radix_tree_view *t, const radix_match_batch *d,
                                                 radix_stream s) RADIX_NOEXCEPT;
/* [D] See radix_rope_append. Angles are computed in double: long positions lose nothing. */
RADIX_API(radix_status) radix_rope_append_launch(radix_ctx *ctx, const radix_rope_append *d,
                                                 radix_stream s) RADIX_NOEXCEPT;
/* [F] Workspace bytes for a launch with these shapes and bounds (decode when cu_q_lens is NULL, else prefill); data
 * pointers may be NULL except that cu_q_lens tells which. Grows with num_seqs, max_context_len and max_query_len only. With
 * plan set at least what any list of the plan may need. RADIX_ATTN_BATCH_INVARIANT must be as in the launch. */
RADIX_API(radix_status) radix_attn_workspace(const radix_ctx *ctx, const radix_attn *d, uint64_t *out_bytes) RADIX_NOEXCEPT;
/* [D] Decode: one query row a sequence, split over the context. cu_q_lens must be NULL. K/V are read once for all query
 * heads of a KV head. Errors: INVALID (shape, dtype, stride, block id, length: named), BUFFER (workspace), STATE (plan). */
RADIX_API(radix_status) radix_paged_attention_launch(radix_ctx *ctx, const radix_attn *d, radix_stream s) RADIX_NOEXCEPT;
/* [D] Prefill: causal attention of variable-length new tokens over cached prefix plus themselves. cu_q_lens required. Rows
 * of q beyond cu_q_lens[num_seqs] are padding: their out and lse stay as they are. */
RADIX_API(radix_status) radix_prefill_launch(radix_ctx *ctx, const radix_attn *d, radix_stream s) RADIX_NOEXCEPT;
/* [D] The attention over n disjoint sets of keys from the attention over each: outs[i] [rows, heads, head_dim] with
 * lses[i] [rows, heads] (f32, natural log, dense) to out and lse (dense; data may be NULL). The empty state, LSE -inf, counts for
 * nothing, whatever its out holds. n: 1..32. out and lse may be outs[i] and lses[i] of one i, else they lie apart from all
 * (from the first element to the last: no interleaving).
 *   w_i = exp(lse_i - max lse);  out = sum w_i out_i / sum w_i;  lse = max lse + ln sum w_i  (Rabe & Staats 2021) */
RADIX_API(radix_status) radix_merge_states_launch(radix_ctx *ctx, const radix_tensor *outs, const radix_tensor *lses,
                                                  uint32_t n, const radix_tensor *out, const radix_tensor *lse,
                                                  radix_stream s) RADIX_NOEXCEPT;

/* [F] Workspace bytes of a launch with this vocabulary, rows, dtype and these features (which pointers are NULL). */
RADIX_API(radix_status) radix_sample_workspace(const radix_ctx *ctx, const radix_sample *d, uint64_t *out_bytes) RADIX_NOEXCEPT;
/* [D] See radix_sample. Errors: INVALID (shape, dtype, NULL, reserved; on the CPU without out_status also a row, named: see there),
 * BUFFER (workspace). Ranges that history_begin, output_begin and bias_begin name are cut to what there is. Cost: a few reads of
 * the logits, nothing is sorted. */
RADIX_API(radix_status) radix_sample_launch(radix_ctx *ctx, const radix_sample *d, radix_stream s) RADIX_NOEXCEPT;
/* [F] Workspace bytes of a radix_verify_launch. */
RADIX_API(radix_status) radix_verify_workspace(const radix_ctx *ctx, const radix_verify *d, uint64_t *out_bytes) RADIX_NOEXCEPT;
/* [D] See radix_verify. Errors: as radix_sample_launch. A tree that is none (a parent out of range) ends where it stops being
 * one. */
RADIX_API(radix_status) radix_verify_launch(radix_ctx *ctx, const radix_verify *d, radix_stream s) RADIX_NOEXCEPT;
/* [F] Workspace bytes of a layer's launch with these shapes, and bounds as radix_attn_workspace: data pointers may be NULL (a
 * tensor with ndim set counts as given), so may decode_rope and prefill_rope. Grows with the rows and with what the
 * attention's workspace grows with only: sized for the largest step, it serves all. */
RADIX_API(radix_status) radix_layer_workspace(const radix_ctx *ctx, const radix_layer *d, uint64_t *out_bytes) RADIX_NOEXCEPT;
/* [D] See radix_layer. Errors: those of radix_rope_append_launch and the attention launches, INVALID (shape, dtype: named), BUFFER
 * (workspace), UNSUPPORTED (CUDA: no gemm given, and cuBLASLt cannot be opened or takes no such product), CALLBACK
 * (gemm). A failure after the first product may leave K/V in the slots. */
RADIX_API(radix_status) radix_layer_launch(radix_ctx *ctx, const radix_layer *d, radix_stream s) RADIX_NOEXCEPT;

/* @cdef-end */

/* Short spellings, exported as weak functions (CMake option RADIXATTN_SHORT_NAMES): declared only when asked for, so that a
 * program with a function of such a name keeps it. */
#if defined(RADIXATTN_SHORT_NAMES)
RADIX_API(radix_status) append_slot(radix_ctx *ctx, const radix_append *items, uint32_t n,
                                    radix_append_out *out) RADIX_NOEXCEPT;
RADIX_API(radix_status) get_block_tables(radix_ctx *ctx, const radix_req *reqs, uint32_t n, int32_t *tables,
                                         int64_t row_stride, int32_t *context_lens, uint64_t *row_versions) RADIX_NOEXCEPT;
RADIX_API(radix_status) free_request(radix_ctx *ctx, radix_req r, uint32_t flags) RADIX_NOEXCEPT;
RADIX_API(radix_status) paged_attention_launch(radix_ctx *ctx, const radix_attn *d, radix_stream s) RADIX_NOEXCEPT;
#endif

#ifdef __cplusplus
}
#endif
#endif
