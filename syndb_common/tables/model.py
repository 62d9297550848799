"""The eleven tables as data: columns, ClickHouse types, units, meaning, and who may be whose parent.

Lengths are nm, areas nm^2, volumes nm^3, positions nm in the order z, x, y. Metrics may be missing (NULL);
categories are empty strings when unknown; ids of rows are UUIDs made by :mod:`syndb_common.tables.identity`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

DATABASE = "syndb"


class Kind(StrEnum):
    """What a column is for; decides what may be computed on it and, under a policy, what may be revealed."""

    ID = "id"
    CATEGORY = "category"
    COUNT = "count"
    METRIC = "metric"
    POSITION = "position"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``type`` is ClickHouse's, ``unit`` a UCUM-like string or empty for pure numbers and text.

    ``since`` is the number of the migration that brought it: a node with a lower schema version does not have it.
    ``low`` and ``high`` are the smallest and largest value that can be meant, None without such a limit.
    """

    name: str
    type: str
    kind: Kind
    description: str
    unit: str = ""
    since: int = 1
    low: float | None = None
    high: float | None = None

    @property
    def nullable(self) -> bool:
        """Whether a value may be missing."""
        return self.type.startswith("Nullable(")

    @property
    def base_type(self) -> str:
        """The type without ``Nullable(...)`` and ``LowCardinality(...)``."""
        inner = self.type
        for wrapper in ("Nullable(", "LowCardinality("):
            if inner.startswith(wrapper):
                inner = inner[len(wrapper) : -1]
        return inner

    @property
    def numeric(self) -> bool:
        """Whether sums and means make sense."""
        return self.kind in (Kind.COUNT, Kind.METRIC, Kind.POSITION)


@dataclass(frozen=True, slots=True)
class Table:
    """One table. ``enum`` is its number in ``parent_enum``; ``parents`` are the tables ``parent_id`` may point to.

    ``since`` is the number of the migration that brought it.
    """

    name: str
    enum: int
    description: str
    columns: tuple[Column, ...]
    parents: tuple[str, ...] = ()
    since: int = 1

    def column(self, name: str) -> Column | None:
        """The column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def references(self) -> dict[str, tuple[str, ...]]:
        """Columns that must resolve within the same version, with the tables their ids may stand in."""
        found: dict[str, tuple[str, ...]] = {}
        for column in self.columns:
            if column.name in ("pre_id", "post_id", "neuron_id"):
                found[column.name] = ("neurons",)
            elif column.name == "parent_id":
                found[column.name] = self.parents
        return found


def _id(name: str, description: str, type: str = "Nullable(UUID)") -> Column:
    return Column(name, type, Kind.ID, description)


def _metric(name: str, description: str, unit: str = "") -> Column:
    low = 0.0 if unit else None  # metrics with a unit are lengths, areas and volumes
    return Column(name, "Nullable(Float64)", Kind.METRIC, description, unit, low=low)


def _fraction(name: str, description: str) -> Column:
    return Column(name, "Nullable(Float64)", Kind.METRIC, f"{description}, 0 to 1", low=0.0, high=1.0)


def _flag(name: str, description: str) -> Column:
    return Column(name, "Nullable(UInt8)", Kind.CATEGORY, description, low=0, high=1)


def _position(name: str, description: str) -> Column:
    return Column(name, "Nullable(Float64)", Kind.POSITION, description, "nm")


def _count(name: str, description: str) -> Column:
    return Column(name, "Nullable(UInt32)", Kind.COUNT, description)


def _category(name: str, description: str) -> Column:
    return Column(name, "LowCardinality(String)", Kind.CATEGORY, description)


def _text(name: str, description: str) -> Column:
    return Column(name, "String", Kind.TEXT, description)


COMMON_COLUMNS = (
    _id("dataset_id", "data set the row belongs to", "UUID"),
    Column("version", "UInt32", Kind.ID, "version of the data set"),
    _id("cid", "id of the row, made from data set and source id", "UUID"),
    Column("source_id", "String", Kind.ID, "id of the row in its source"),
)
_PARENT_COLUMNS = (
    _id("parent_id", "cid of the enclosing structure"),
    Column("parent_enum", "Nullable(UInt8)", Kind.ID, "number of the table parent_id points to"),
    _id("neuron_id", "cid of the neuron it belongs to"),
)
_VOXEL = (
    _metric("voxel_volume", "volume counted in voxels", "nm^3"),
    _metric("voxel_radius", "radius of the sphere of that volume", "nm"),
)
_MESH = (
    _metric("mesh_volume", "volume enclosed by the mesh", "nm^3"),
    _metric("mesh_surface_area", "surface area of the mesh", "nm^2"),
    _metric("mesh_area_volume_ratio", "surface area divided by volume", "nm^-1"),
    _fraction("mesh_sphericity", "surface of the sphere of equal volume over the surface of the mesh"),
    _text("s3_mesh_location", "object that holds the mesh"),
)
_CENTROID = tuple(_position(f"centroid_{axis}", f"centroid, {axis}") for axis in "zxy")
_TRANSMITTERS = tuple(
    _fraction(name, f"probability or mean score of {name}")
    for name in (
        "gaba", "acetylcholine", "glutamate", "octopamine", "serotonin", "dopamine", "tyramine", "histamine",
    )
)  # fmt: skip
_NEUROTRANSMITTER = _category("neurotransmitter", "winning transmitter, or the call of the source")
_MITOCHONDRIA = (
    _count("mitochondria_count", "mitochondria inside"),
    _metric("total_mitochondria_volume", "volume of all mitochondria inside", "nm^3"),
)
_BRAIN_REGION = _category("brain_region", "brain region as the source names it")
_CABLE_LENGTH = _metric("cable_length", "length of the skeleton", "nm")
_FORMS_SYNAPSE_WITH = _id("forms_synapse_with", "cid of the synapse it takes part in")
_PSD_AREA = _metric("psd_area", "area of the postsynaptic density", "nm^2")
_ROOT_ID = Column("root_id", "Nullable(UInt64)", Kind.ID, "root id in the source's segmentation")

_FIRST_SEVEN = (
    "neurons", "neuron_relations", "dendrites", "axons", "pre_synaptic_terminals", "synapses", "dendritic_spines",
)  # fmt: skip


def _table(
    name: str, enum: int, description: str, own: Iterable[Column | tuple[Column, ...]], parents: tuple[str, ...] = ()
) -> Table:
    columns = list(COMMON_COLUMNS)
    if name not in ("neurons", "neuron_relations"):
        columns.extend(_PARENT_COLUMNS)
    for item in own:
        columns.extend(item if isinstance(item, tuple) else (item,))
    return Table(name, enum, description, tuple(columns), parents)


_ALL = (
    _table(
        "neurons",
        1,
        "one row per neuron (or muscle or other cell that the source treats as a node)",
        (
            _text("name", "name in the source"),
            _ROOT_ID,
            _category("polarity", "unipolar, bipolar, multipolar"),
            _category("cell_type", "cell type"),
            _category("cell_class", "cell class, the coarsest grouping of the source"),
            _category("cell_subclass", "cell subclass"),
            _category("side", "left, right or center"),
            _BRAIN_REGION,
            _TRANSMITTERS,
            _NEUROTRANSMITTER,
            _VOXEL,
            _MESH,
            _CENTROID,
            tuple(_position(f"soma_{axis}", f"soma, {axis}") for axis in "zxy"),
            _CABLE_LENGTH,
            _count("branch_count", "branch points of the skeleton"),
            _count("tip_count", "end points of the skeleton"),
            _count("skeleton_count", "connected pieces of the skeleton"),
            _flag("is_tree", "1 when the skeleton is a tree, else 0"),
            _text("s3_swb_location", "object that holds the skeleton"),
            _count("terminal_count", "axon terminals"),
            _count("dendritic_spine_count", "dendritic spines"),
            _MITOCHONDRIA,
        ),
    ),
    _table(
        "neuron_relations",
        2,
        "directed, non-synaptic relation between two neurons",
        (
            _id("pre_id", "neuron the relation starts from", "UUID"),
            _id("post_id", "neuron the relation points to", "UUID"),
            _category("relation", "kind of relation"),
            _metric("weight", "strength of the relation"),
        ),
    ),
    _table(
        "dendrites",
        3,
        "one row per dendrite",
        (_VOXEL, _MESH, _CENTROID, _CABLE_LENGTH, _count("dendritic_spine_count", "dendritic spines"), _MITOCHONDRIA),
        ("neurons",),
    ),
    _table(
        "axons",
        4,
        "one row per axon",
        (_VOXEL, _MESH, _CENTROID, _CABLE_LENGTH, _count("terminal_count", "axon terminals"), _MITOCHONDRIA),
        ("neurons",),
    ),
    _table(
        "pre_synaptic_terminals",
        5,
        "one row per presynaptic terminal (bouton)",
        (
            _VOXEL,
            _MESH,
            _CENTROID,
            _count("vesicle_count", "vesicles inside"),
            _metric("total_vesicle_volume", "volume of all vesicles inside", "nm^3"),
            _MITOCHONDRIA,
            _FORMS_SYNAPSE_WITH,
        ),
        ("neurons", "axons"),
    ),
    _table(
        "synapses",
        6,
        "one row per synapse, or per connected pair of neurons with its number of synapses",
        (
            _id("pre_id", "presynaptic neuron", "UUID"),
            _id("post_id", "postsynaptic neuron", "UUID"),
            _id("pre_component_id", "presynaptic structure"),
            _id("post_component_id", "postsynaptic structure"),
            _category("synapse_type", "chemical or electrical"),
            Column("synapse_count", "UInt32", Kind.COUNT, "synapses (or the source's weight) this row stands for"),
            _BRAIN_REGION,
            _TRANSMITTERS,
            _NEUROTRANSMITTER,
            _metric("connection_score", "confidence of the detection"),
            Column("cleft_score", "Nullable(Int32)", Kind.METRIC, "score of the synaptic cleft"),
            _ROOT_ID,
            _CENTROID,
            tuple(_position(f"pre_{axis}", f"presynaptic site, {axis}") for axis in "zxy"),
            tuple(_position(f"post_{axis}", f"postsynaptic site, {axis}") for axis in "zxy"),
            _PSD_AREA,
        ),
        ("neurons", "dendrites", "axons"),
    ),
    _table(
        "dendritic_spines",
        7,
        "one row per dendritic spine",
        (
            _VOXEL,
            _MESH,
            _CENTROID,
            _metric("head_volume", "volume of the spine head", "nm^3"),
            _metric("neck_length", "length of the spine neck", "nm"),
            _metric("neck_diameter", "diameter of the spine neck", "nm"),
            _PSD_AREA,
            _flag("spine_apparatus", "1 when a spine apparatus is seen, else 0"),
            _FORMS_SYNAPSE_WITH,
        ),
        ("neurons", "dendrites"),
    ),
    _table(
        "endoplasmic_reticulum",
        8,
        "one row per piece of endoplasmic reticulum",
        (_VOXEL, _MESH, _CENTROID, _count("ribosome_count", "ribosomes on it")),
        _FIRST_SEVEN,
    ),
    _table("nuclei", 9, "one row per nucleus", (_VOXEL, _MESH, _CENTROID), _FIRST_SEVEN),
    _table(
        "vesicles",
        10,
        "one row per vesicle",
        (
            _NEUROTRANSMITTER,
            _VOXEL,
            _CENTROID,
            _metric("distance_to_active_zone", "distance to the active zone", "nm"),
            Column(
                "minimum_normal_length", "Nullable(Int32)", Kind.METRIC, "shortest normal to the membrane", "nm", low=0
            ),
        ),
        _FIRST_SEVEN,
    ),
    _table("mitochondria", 11, "one row per mitochondrion", (_VOXEL, _MESH, _CENTROID), _FIRST_SEVEN),
)

TABLES: MappingProxyType[str, Table] = MappingProxyType({table.name: table for table in _ALL})

METADATA: MappingProxyType[str, str] = MappingProxyType(
    {
        "dataset": "name of the data set",
        "species": "species, binomial",
        "sex": "sex of the animal",
        "stage": "developmental stage",
        "brain_region": "brain region imaged",
        "microscopy": "imaging method",
        "genotype": "genetic manipulations",
        "publication": "DOI of the publication",
        "licence": "licence of the data",
        "tags": "free labels, separated by commas",
    }
)
"""Names that are metadata of a data set and may be used as columns; a table's own column of that name wins."""
