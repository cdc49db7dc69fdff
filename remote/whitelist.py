"""The list: aten operations a worker runs on its objects for others.

Deterministic functions of their operands, views, in-place forms, the backward forms autograd asks for, factories,
and draws
from torch's generator. What torch's kernels take on trust is checked first (``remote/checks.py``). Left out is what

* hands out a number instead of a tensor (item, equal, allclose), or changes the size of memory (resize_, out= but for
  operations element by element);
* reads or writes outside of its tensors for arguments that a check could not tell in less time than the operation
  takes:
  segment_reduce, CTC loss, embedding bags (offsets that count on one another), the backward form of fractional pooling,
  linalg_ldl_solve (pivots that go in pairs), _reshape_alias (a view without bounds), the _unsafe_ forms of indexing;
* makes or takes sparse and quantised tensors, or touches files, devices or streams.
"""

ALLOWED = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool3d_backward
    _batch_norm_with_update _cdist_backward _cdist_forward _chunk_cat _conj _conj_physical _fft_c2c _fft_c2r _fft_r2c
    _foreach_add_ _foreach_mul_
    _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors _linalg_check_errors _linalg_det
    _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd _log_softmax _log_softmax_backward_data
    _native_batch_norm_legit _native_batch_norm_legit_no_training _pdist_backward _pdist_forward _prelu_kernel
    _prelu_kernel_backward _safe_softmax _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_flash_attention_for_cpu_backward _softmax _softmax_backward_data _to_copy _trilinear _unique
    _unique2 _unsafe_view _upsample_bilinear2d_aa _upsample_bilinear2d_aa_backward _upsample_nearest_exact1d
    _upsample_nearest_exact1d_backward _upsample_nearest_exact2d _upsample_nearest_exact2d_backward
    _weight_norm_interface _weight_norm_interface_backward abs abs_ acos acos_ acosh acosh_ adaptive_avg_pool1d
    adaptive_max_pool2d adaptive_max_pool2d_backward adaptive_max_pool3d adaptive_max_pool3d_backward add add_ addbmm
    addbmm_ addcdiv addcdiv_ addcmul addcmul_ addmm addmm_ addmv addmv_ addr addr_ alias alias_copy all amax amin
    aminmax angle any arange argmax argmin as_strided as_strided_copy as_strided_scatter asin asin_ asinh asinh_ atan
    atan2 atan2_ atan_ atanh atanh_ avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward baddbmm
    baddbmm_ batch_norm_backward bernoulli bernoulli_ binary_cross_entropy binary_cross_entropy_backward
    binary_cross_entropy_with_logits bincount binomial bitwise_and bitwise_and_ bitwise_left_shift bitwise_left_shift_
    bitwise_not bitwise_not_ bitwise_or bitwise_or_ bitwise_right_shift bitwise_right_shift_ bitwise_xor bitwise_xor_
    block_diag bmm bucketize cat cauchy_ ceil ceil_ celu celu_ channel_shuffle cholesky cholesky_inverse
    cholesky_solve clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone col2im complex conj_physical_
    constant_pad_nd contiguous convolution convolution_backward copy copy_ copysign copysign_ cos cos_ cosh cosh_
    count_nonzero cummax cummin cumprod cumprod_ cumsum cumsum_ deg2rad deg2rad_ detach detach_ diag_embed diagonal
    diagonal_backward diagonal_copy diagonal_scatter digamma digamma_ dist div div_ dot elu elu_ elu_backward
    embedding embedding_dense_backward embedding_renorm_ empty empty_like empty_permuted empty_strided eq eq_ erf erf_
    erfc erfc_ erfinv erfinv_ exp exp2 exp2_ exp_ expand expand_copy expm1 expm1_ exponential_ eye fill fill_ flip
    floor floor_ floor_divide floor_divide_ fmax fmin fmod fmod_ frac frac_ fractional_max_pool2d
    fractional_max_pool3d frexp full full_like gather
    gcd gcd_ ge ge_ gelu gelu_backward geometric_ geqrf glu glu_backward grid_sampler_2d grid_sampler_2d_backward
    grid_sampler_3d grid_sampler_3d_backward gt gt_ hardshrink hardshrink_backward hardsigmoid hardsigmoid_
    hardsigmoid_backward hardswish hardswish_ hardswish_backward hardtanh hardtanh_ hardtanh_backward hash_tensor
    heaviside heaviside_ histc histogram huber_loss huber_loss_backward hypot hypot_ i0 i0_ igamma igamma_ igammac
    igammac_ im2col imag index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_
    index_reduce index_reduce_ index_select isfinite isin isinf isnan isneginf isposinf kthvalue lcm lcm_ ldexp ldexp_
    le le_ leaky_relu leaky_relu_ leaky_relu_backward lerp lerp_ lgamma lgamma_ lift lift_fresh lift_fresh_copy
    linalg_cholesky_ex linalg_cross linalg_eig linalg_householder_product linalg_inv_ex linalg_ldl_factor_ex
    linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_lu_solve linalg_matrix_exp linalg_pinv
    linalg_qr linalg_solve_triangular linalg_vector_norm linspace log log10 log10_ log1p log1p_ log2 log2_ log_
    log_normal_ log_sigmoid log_sigmoid_backward log_sigmoid_forward logaddexp logaddexp2 logcumsumexp logical_and
    logical_and_ logical_not logical_not_ logical_or logical_or_ logical_xor logical_xor_ logit logit_ logit_backward
    logspace logsumexp lt lt_ lu_unpack masked_fill masked_fill_ masked_scatter masked_scatter_
    masked_scatter_backward masked_select max max_pool1d_with_indices max_pool2d_with_indices
    max_pool2d_with_indices_backward max_pool3d_with_indices max_pool3d_with_indices_backward max_unpool2d
    max_unpool3d maximum mean median min minimum mish mish_ mish_backward mkldnn_rnn_layer mkldnn_rnn_layer_backward
    mm mode mse_loss mse_loss_backward mul mul_ multi_margin_loss multi_margin_loss_backward
    multilabel_margin_loss_backward multilabel_margin_loss_forward multinomial mv mvlgamma mvlgamma_ nan_to_num
    nan_to_num_ nanmedian nansum narrow narrow_copy native_batch_norm native_batch_norm_backward native_dropout
    native_dropout_backward native_group_norm native_group_norm_backward native_layer_norm native_layer_norm_backward
    ne ne_ neg neg_ new_empty new_empty_strided new_full new_ones new_zeros nextafter nextafter_ nll_loss2d_backward
    nll_loss2d_forward nll_loss_backward nll_loss_forward nonzero nonzero_static norm normal normal_ one_hot ones
    ones_like ormqr permute permute_copy pixel_shuffle pixel_unshuffle poisson polar polygamma polygamma_ pow pow_
    prod put put_ rad2deg rad2deg_ rand rand_like randint randint_like randn randn_like random_ randperm real
    reciprocal reciprocal_ reflection_pad1d reflection_pad1d_backward reflection_pad2d reflection_pad2d_backward
    reflection_pad3d reflection_pad3d_backward relu relu_ remainder remainder_ renorm renorm_ repeat repeat_interleave
    replication_pad1d replication_pad1d_backward replication_pad2d replication_pad2d_backward replication_pad3d
    replication_pad3d_backward reshape roll rot90 round round_ rrelu_with_noise rrelu_with_noise_
    rrelu_with_noise_backward rsqrt rsqrt_ rsub scalar_tensor scatter scatter_ scatter_add scatter_add_ scatter_reduce
    scatter_reduce_ searchsorted select select_backward select_scatter set_ sgn sgn_ sigmoid sigmoid_ sigmoid_backward
    sign sign_ signbit silu silu_ silu_backward sin sin_ sinc sinc_ sinh sinh_ slice slice_backward slice_scatter
    smooth_l1_loss smooth_l1_loss_backward soft_margin_loss soft_margin_loss_backward softplus softplus_backward
    softshrink softshrink_backward sort special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0
    special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u special_chebyshev_polynomial_v
    special_chebyshev_polynomial_w special_entr special_erfcx special_hermite_polynomial_h
    special_hermite_polynomial_he special_i0e special_i1 special_i1e special_laguerre_polynomial_l
    special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0 special_modified_bessel_i1
    special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w special_spherical_bessel_j0
    special_xlog1py special_zeta split split_copy split_with_sizes split_with_sizes_copy sqrt sqrt_ square square_
    squeeze squeeze_ squeeze_copy stack std std_mean sub sub_ sum t t_ t_copy take tan tan_ tanh tanh_ tanh_backward
    threshold threshold_ threshold_backward topk trace transpose transpose_ transpose_copy triangular_solve tril tril_
    tril_indices triu triu_ triu_indices trunc trunc_ unbind unbind_copy unfold unfold_backward unfold_copy uniform_
    unique_consecutive unique_dim unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_
    unsqueeze_copy upsample_bicubic2d upsample_bicubic2d_backward upsample_bilinear2d upsample_bilinear2d_backward
    upsample_linear1d upsample_linear1d_backward upsample_nearest1d upsample_nearest1d_backward upsample_nearest2d
    upsample_nearest2d_backward upsample_nearest3d upsample_nearest3d_backward upsample_trilinear3d
    upsample_trilinear3d_backward var var_mean vdot view view_as_complex view_as_real view_copy where xlogy xlogy_
    zero_ zeros zeros_like
    """.split()
)
"""Names of operations; all their overloads are meant."""
