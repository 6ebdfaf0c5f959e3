"""Loss functions with their gradients, in one pass over memory, for NumPy arrays."""

from . import losses as losses
from .dispatch import get_num_threads as get_num_threads
from .dispatch import set_num_threads as set_num_threads
from .families.stats import Stats as Stats

# losses: written by ci/sync.py
from .losses.allpairs.circle import Circle as Circle
from .losses.allpairs.circle import circle as circle
from .losses.allpairs.ntxent import Ntxent as Ntxent
from .losses.allpairs.ntxent import ntxent as ntxent
from .losses.elementwise.binary_crossentropy import BinaryCrossentropy as BinaryCrossentropy
from .losses.elementwise.binary_crossentropy import binary_crossentropy as binary_crossentropy
from .losses.elementwise.binary_focal_crossentropy import BinaryFocalCrossentropy as BinaryFocalCrossentropy
from .losses.elementwise.binary_focal_crossentropy import binary_focal_crossentropy as binary_focal_crossentropy
from .losses.elementwise.exponential import Exponential as Exponential
from .losses.elementwise.exponential import exponential as exponential
from .losses.elementwise.gamma import Gamma as Gamma
from .losses.elementwise.gamma import gamma as gamma
from .losses.elementwise.hinge import Hinge as Hinge
from .losses.elementwise.hinge import hinge as hinge
from .losses.elementwise.hinge_embedding import HingeEmbedding as HingeEmbedding
from .losses.elementwise.hinge_embedding import hinge_embedding as hinge_embedding
from .losses.elementwise.huber import Huber as Huber
from .losses.elementwise.huber import huber as huber
from .losses.elementwise.log_cosh import LogCosh as LogCosh
from .losses.elementwise.log_cosh import log_cosh as log_cosh
from .losses.elementwise.mean_absolute_error import MeanAbsoluteError as MeanAbsoluteError
from .losses.elementwise.mean_absolute_error import mean_absolute_error as mean_absolute_error
from .losses.elementwise.mean_absolute_percentage_error import (
    MeanAbsolutePercentageError as MeanAbsolutePercentageError,
)
from .losses.elementwise.mean_absolute_percentage_error import (
    mean_absolute_percentage_error as mean_absolute_percentage_error,
)
from .losses.elementwise.mean_squared_error import MeanSquaredError as MeanSquaredError
from .losses.elementwise.mean_squared_error import mean_squared_error as mean_squared_error
from .losses.elementwise.mean_squared_logarithmic_error import (
    MeanSquaredLogarithmicError as MeanSquaredLogarithmicError,
)
from .losses.elementwise.mean_squared_logarithmic_error import (
    mean_squared_logarithmic_error as mean_squared_logarithmic_error,
)
from .losses.elementwise.pinball import Pinball as Pinball
from .losses.elementwise.pinball import pinball as pinball
from .losses.elementwise.poisson import Poisson as Poisson
from .losses.elementwise.poisson import poisson as poisson
from .losses.elementwise.smooth_l1 import SmoothL1 as SmoothL1
from .losses.elementwise.smooth_l1 import smooth_l1 as smooth_l1
from .losses.elementwise.soft_margin import SoftMargin as SoftMargin
from .losses.elementwise.soft_margin import soft_margin as soft_margin
from .losses.elementwise.squared_hinge import SquaredHinge as SquaredHinge
from .losses.elementwise.squared_hinge import squared_hinge as squared_hinge
from .losses.elementwise.tweedie import Tweedie as Tweedie
from .losses.elementwise.tweedie import tweedie as tweedie
from .losses.pairwise.cosine_embedding import CosineEmbedding as CosineEmbedding
from .losses.pairwise.cosine_embedding import cosine_embedding as cosine_embedding
from .losses.pairwise.gaussian_nll import GaussianNLL as GaussianNLL
from .losses.pairwise.gaussian_nll import gaussian_nll as gaussian_nll
from .losses.pairwise.margin_ranking import MarginRanking as MarginRanking
from .losses.pairwise.margin_ranking import margin_ranking as margin_ranking
from .losses.pairwise.triplet_margin import TripletMargin as TripletMargin
from .losses.pairwise.triplet_margin import triplet_margin as triplet_margin
from .losses.rowwise.categorical_crossentropy import CategoricalCrossentropy as CategoricalCrossentropy
from .losses.rowwise.categorical_crossentropy import categorical_crossentropy as categorical_crossentropy
from .losses.rowwise.categorical_focal_crossentropy import CategoricalFocalCrossentropy as CategoricalFocalCrossentropy
from .losses.rowwise.categorical_focal_crossentropy import (
    categorical_focal_crossentropy as categorical_focal_crossentropy,
)
from .losses.rowwise.categorical_generalized_cross_entropy import (
    CategoricalGeneralizedCrossEntropy as CategoricalGeneralizedCrossEntropy,
)
from .losses.rowwise.categorical_generalized_cross_entropy import (
    categorical_generalized_cross_entropy as categorical_generalized_cross_entropy,
)
from .losses.rowwise.categorical_hinge import CategoricalHinge as CategoricalHinge
from .losses.rowwise.categorical_hinge import categorical_hinge as categorical_hinge
from .losses.rowwise.cosine_similarity import CosineSimilarity as CosineSimilarity
from .losses.rowwise.cosine_similarity import cosine_similarity as cosine_similarity
from .losses.rowwise.dice import Dice as Dice
from .losses.rowwise.dice import dice as dice
from .losses.rowwise.jensen_shannon import JensenShannon as JensenShannon
from .losses.rowwise.jensen_shannon import jensen_shannon as jensen_shannon
from .losses.rowwise.kl_divergence import KLDivergence as KLDivergence
from .losses.rowwise.kl_divergence import kl_divergence as kl_divergence
from .losses.rowwise.multi_margin import MultiMargin as MultiMargin
from .losses.rowwise.multi_margin import multi_margin as multi_margin
from .losses.rowwise.multilabel_soft_margin import MultilabelSoftMargin as MultilabelSoftMargin
from .losses.rowwise.multilabel_soft_margin import multilabel_soft_margin as multilabel_soft_margin
from .losses.rowwise.nll import NLL as NLL
from .losses.rowwise.nll import nll as nll
from .losses.rowwise.poly1_crossentropy import Poly1Crossentropy as Poly1Crossentropy
from .losses.rowwise.poly1_crossentropy import poly1_crossentropy as poly1_crossentropy
from .losses.rowwise.sparse_categorical_crossentropy import (
    SparseCategoricalCrossentropy as SparseCategoricalCrossentropy,
)
from .losses.rowwise.sparse_categorical_crossentropy import (
    sparse_categorical_crossentropy as sparse_categorical_crossentropy,
)
from .losses.rowwise.total_variation import TotalVariation as TotalVariation
from .losses.rowwise.total_variation import total_variation as total_variation
from .losses.rowwise.tversky import Tversky as Tversky
from .losses.rowwise.tversky import tversky as tversky
from .losses.sequence.ctc import CTC as CTC
from .losses.sequence.ctc import ctc as ctc

bce = binary_crossentropy
kld = kl_divergence
mae = mean_absolute_error
mape = mean_absolute_percentage_error
mse = mean_squared_error
msle = mean_squared_logarithmic_error
poly_loss_cross_entropy = poly1_crossentropy
# end of losses

__version__ = "0.1.0"
