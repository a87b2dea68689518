"""Architectures of the literature, by the names that their authors gave them."""

KNOWN = {
    # Liu et al., 2019, arXiv:1806.09055, first and second order
    "DARTS_V1": (
        "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
        "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
        "normal_concat=[2, 3, 4, 5], "
        "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), "
        "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    "DARTS_V2": (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=[2, 3, 4, 5], "
        "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
        "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    # Xu et al., 2020, arXiv:1907.05737, searched on CIFAR-10 and on ImageNet
    "PC_DARTS_cifar": (
        "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
        "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
        "normal_concat=[2, 3, 4, 5], "
        "reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), "
        "('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    "PC_DARTS_image": (
        "Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)], "
        "normal_concat=[2, 3, 4, 5], "
        "reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1), "
        "('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    # Chen et al., 2019, arXiv:1904.12760
    "PDARTS": (
        "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], "
        "normal_concat=[2, 3, 4, 5], "
        "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), "
        "('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], "
        "reduce_concat=[2, 3, 4, 5])"
    ),
    # Cai et al., 2019, arXiv:1812.00332, on three devices. The authors then changed the widths; these are the blocks
    "PROXYLESS_CPU": (
        "Genotype(normal=[('mbconv_3x3_e6', 0), ('mbconv_3x3_e3', 1), ('mbconv_3x3_e3', 2), ('mbconv_3x3_e3', 3), "
        "('mbconv_3x3_e6', 4), ('mbconv_3x3_e3', 5), ('mbconv_3x3_e3', 6), ('mbconv_5x5_e3', 7), "
        "('mbconv_3x3_e6', 8), ('none', 9), ('none', 10), ('mbconv_3x3_e3', 11), "
        "('mbconv_5x5_e6', 12), ('mbconv_3x3_e3', 13), ('mbconv_3x3_e3', 14), ('mbconv_3x3_e3', 15), "
        "('mbconv_5x5_e6', 16), ('mbconv_5x5_e3', 17), ('mbconv_5x5_e3', 18), ('mbconv_3x3_e3', 19), "
        "('mbconv_5x5_e6', 20)], "
        "normal_concat=[21], space='proxyless')"
    ),
    "PROXYLESS_GPU": (
        "Genotype(normal=[('mbconv_5x5_e3', 0), ('none', 1), ('none', 2), ('none', 3), "
        "('mbconv_7x7_e3', 4), ('none', 5), ('none', 6), ('mbconv_3x3_e3', 7), "
        "('mbconv_7x7_e6', 8), ('none', 9), ('none', 10), ('mbconv_5x5_e3', 11), "
        "('mbconv_5x5_e6', 12), ('none', 13), ('mbconv_3x3_e3', 14), ('mbconv_5x5_e3', 15), "
        "('mbconv_7x7_e6', 16), ('mbconv_7x7_e6', 17), ('mbconv_7x7_e6', 18), ('mbconv_5x5_e6', 19), "
        "('mbconv_7x7_e6', 20)], "
        "normal_concat=[21], space='proxyless')"
    ),
    "PROXYLESS_MOBILE": (
        "Genotype(normal=[('mbconv_5x5_e3', 0), ('mbconv_3x3_e3', 1), ('none', 2), ('none', 3), "
        "('mbconv_7x7_e3', 4), ('mbconv_3x3_e3', 5), ('mbconv_5x5_e3', 6), ('mbconv_5x5_e3', 7), "
        "('mbconv_7x7_e6', 8), ('mbconv_5x5_e3', 9), ('mbconv_5x5_e3', 10), ('mbconv_5x5_e3', 11), "
        "('mbconv_5x5_e6', 12), ('mbconv_5x5_e3', 13), ('mbconv_5x5_e3', 14), ('mbconv_5x5_e3', 15), "
        "('mbconv_7x7_e6', 16), ('mbconv_7x7_e6', 17), ('mbconv_7x7_e3', 18), ('mbconv_7x7_e3', 19), "
        "('mbconv_7x7_e6', 20)], "
        "normal_concat=[21], space='proxyless')"
    ),
}
