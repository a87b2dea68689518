"""Ready settings: whole experiments by name, each a value that options change."""

from collections.abc import Mapping
from dataclasses import replace

from fastnas.costs.config import CostConfig
from fastnas.data import DataConfig
from fastnas.experiment.settings import Experiment
from fastnas.methods.variants import Techniques
from fastnas.training.config import RetrainConfig, SearchConfig

_CIFAR_RETRAINING = RetrainConfig(
    channels=36,
    cells=20,
    epochs=600,
    batch_size=96,
    lr=0.025,
    drop_path=0.2,
    cutout=16,
    auxiliary=0.4,
    evaluate_every=10,
)

_NASBENCH201_SEARCH = SearchConfig(
    channels=16,
    cells=5,
    epochs=50,
    batch_size=64,
    weight_lr=0.025,
    weight_lr_final=0.001,
    nesterov=True,
    weight_decay=5e-4,
    alpha_lr=3e-4,
)
_NASBENCH201_RETRAINING = RetrainConfig(
    channels=16,
    cells=5,
    epochs=200,
    batch_size=256,
    lr=0.1,
    nesterov=True,
    weight_decay=5e-4,
    grad_clip=0.0,
    evaluate_every=10,
)

RECIPES: Mapping[str, Experiment] = {
    # The first run. Among clutter architectures differ by more than their retrainings do; on the digits alone, and on
    # small images of Fashion-MNIST, they do not (profiling/results/quality.md)
    "digits": Experiment(
        method="single_darts",
        data="cluttered",
        space="nasbench201",
        select="average",
        random_genotypes=4,
        random_halving=True,
        config=SearchConfig(
            channels=8, cells=1, epochs=20, batch_size=64, weight_lr=0.05, nesterov=True, weight_decay=5e-4
        ),
        retrain=RetrainConfig(
            channels=8, cells=1, epochs=30, batch_size=64, lr=0.05, nesterov=True, weight_decay=5e-4, evaluate_every=10
        ),
    ),
    # Where it starts for another space
    "digits_darts": Experiment(),
    # Liu et al., 2019, arXiv:1806.09055, with the numbers of the published code
    "darts_cifar10": Experiment(
        method="darts",
        data="cifar10:data",
        config=SearchConfig(
            channels=16, cells=8, epochs=50, batch_size=64, weight_lr=0.025, weight_lr_final=0.001, alpha_lr=3e-4
        ),
        retrain=_CIFAR_RETRAINING,
    ),
    # Xu et al., 2020, arXiv:1907.05737
    "pc_darts_cifar10": Experiment(
        method="pc_darts",
        data="cifar10:data",
        config=SearchConfig(channels=16, cells=8, epochs=50, batch_size=256, weight_lr=0.1, alpha_lr=6e-4),
        retrain=replace(_CIFAR_RETRAINING, drop_path=0.3),
    ),
    "pc_darts_imagenet": Experiment(
        method="pc_darts_imagenet",
        data="imagenet:data",
        images=DataConfig(augment="photo", colour=(0.0, 0.0, 0.0, 0.0)),  # the search changes no colours
        random_genotypes=0,
        config=SearchConfig(
            channels=16,
            cells=8,
            epochs=50,
            batch_size=1024,
            fractions=(0.1, 0.025),
            max_broken=10,
            weight_lr=0.5,
            weight_lr_warmup_epochs=5,
            alpha_lr=6e-3,
            alpha_grad_clip=5.0,
            workers=8,
        ),
        retrain=RetrainConfig(
            channels=48,
            cells=14,
            epochs=250,
            batch_size=1024,
            lr=0.5,
            schedule="linear",
            lr_warmup_epochs=5,
            weight_decay=3e-5,
            augment="photo",
            colour=(0.4, 0.4, 0.4, 0.2),
            label_smoothing=0.1,
            auxiliary=0.4,
            evaluate_every=5,
        ),
    ),
    # Chen et al., 2019, arXiv:1904.12760: three stages of 25 epochs
    "p_darts_cifar10": Experiment(
        method="p_darts",
        data="cifar10:data",
        config=SearchConfig(
            channels=16,
            cells=5,
            epochs=75,
            batch_size=96,
            weight_lr=0.025,
            alpha_lr=6e-4,
            alpha_grad_clip=5.0,
        ),
        retrain=replace(_CIFAR_RETRAINING, batch_size=128, drop_path=0.3),
    ),
    # Xie et al., 2019, arXiv:1812.09926, with the drop-path of the published search. Its resource term mixes three
    # costs under logarithms; this one is linear in the parameters
    "snas_cifar10": Experiment(
        method="snas",
        data="cifar10:data",
        config=SearchConfig(
            channels=16,
            cells=8,
            epochs=150,
            batch_size=64,
            weight_lr=0.025,
            weight_lr_final=0.001,
            alpha_lr=3e-4,
            alpha_grad_clip=10.0,
        ),
        retrain=_CIFAR_RETRAINING,
        cost=CostConfig(of="parameters", penalty="linear", strength=0.01),
    ),
    # Zhang et al., 2018, arXiv:1811.01567: scalings and weights at one constant rate
    "dso_nas_cifar10": Experiment(
        method="dso_nas",
        space="dso",
        data="cifar10:data",
        config=SearchConfig(
            channels=16,
            cells=8,
            epochs=120,
            batch_size=128,
            weight_lr=0.1,
            weight_schedule="constant",
            nesterov=True,
            weight_decay=1e-4,
            grad_clip=0.0,
            alpha_lr=0.1,
        ),
        retrain=RetrainConfig(
            channels=36,
            cells=8,
            epochs=630,
            batch_size=128,
            lr=0.05,
            lr_final=1e-4,
            schedule="restarts",
            cutout=16,
            evaluate_every=10,
        ),
    ),
    # Hundt et al., 2019, arXiv:1903.09900
    "sharp_darts_cifar10": Experiment(
        method="sharp_darts",
        space="sharpdarts",
        data="cifar10:data",
        images=DataConfig(augment="auto"),
        techniques=Techniques(cutout=1.0),
        config=SearchConfig(
            channels=16, cells=8, epochs=120, batch_size=48, weight_lr=0.025, weight_lr_final=1e-4, alpha_lr=3e-4
        ),
        retrain=replace(
            _CIFAR_RETRAINING,
            epochs=2000,
            batch_size=64,
            schedule="cosine_power",
            lr_warmup_epochs=5,
            lr_final=1e-8,
            augment="auto",
        ),
    ),
    # Dong and Yang, 2019, arXiv:1910.04465, in the space of arXiv:2001.00326
    "gdas_nasbench201": Experiment(
        method="gdas_nasbench201",
        space="nasbench201",
        data="cifar10:data",
        config=replace(_NASBENCH201_SEARCH, epochs=250),
        retrain=_NASBENCH201_RETRAINING,
    ),
    # Cai et al., 2019, arXiv:1812.00332, with the numbers of the published code but for three of the search: it changes
    # the rate with every step, smooths the labels by 0.1, and trains alpha on crops of the centre
    "proxyless_imagenet": Experiment(
        method="proxyless_nas",
        space="proxyless",
        data="imagenet:data",
        images=DataConfig(augment="photo", colour=(32 / 255, 0.0, 0.5, 0.0)),
        random_genotypes=0,
        config=SearchConfig(
            channels=16,
            cells=4,
            epochs=160,
            batch_size=256,
            weight_share=1 - 50_000 / 1_281_167,
            max_broken=10,
            weight_lr=0.025,
            nesterov=True,
            weight_decay=4e-5,
            grad_clip=0.0,
            alpha_lr=1e-3,
            alpha_beta1=0.0,
            alpha_weight_decay=0.0,
            workers=8,
        ),
        retrain=RetrainConfig(
            channels=16,
            cells=4,
            epochs=300,
            batch_size=256,
            lr=0.05,
            lr_per_step=True,
            nesterov=True,
            weight_decay=4e-5,
            decay_norms=False,
            grad_clip=0.0,
            augment="photo",
            colour=(0.4, 0.4, 0.4, 0.1),
            label_smoothing=0.1,
            evaluate_every=5,
        ),
    ),
    # Dong and Yang, 2020, arXiv:2001.00326
    "darts_nasbench201": Experiment(
        method="darts_nasbench201",
        space="nasbench201",
        data="cifar10:data",
        config=_NASBENCH201_SEARCH,
        retrain=_NASBENCH201_RETRAINING,
    ),
}
