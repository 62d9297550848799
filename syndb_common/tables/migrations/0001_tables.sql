-- The eleven tables of the data model. One partition is one published version of one data set.

CREATE TABLE IF NOT EXISTS syndb.neurons
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    name String COMMENT 'name in the source',
    root_id Nullable(UInt64) COMMENT 'root id in the source''s segmentation',
    polarity LowCardinality(String) COMMENT 'unipolar, bipolar, multipolar',
    cell_type LowCardinality(String) COMMENT 'cell type',
    cell_class LowCardinality(String) COMMENT 'cell class, the coarsest grouping of the source',
    cell_subclass LowCardinality(String) COMMENT 'cell subclass',
    side LowCardinality(String) COMMENT 'left, right or center',
    brain_region LowCardinality(String) COMMENT 'brain region as the source names it',
    gaba Nullable(Float64) COMMENT 'probability or mean score of gaba, 0 to 1',
    acetylcholine Nullable(Float64) COMMENT 'probability or mean score of acetylcholine, 0 to 1',
    glutamate Nullable(Float64) COMMENT 'probability or mean score of glutamate, 0 to 1',
    octopamine Nullable(Float64) COMMENT 'probability or mean score of octopamine, 0 to 1',
    serotonin Nullable(Float64) COMMENT 'probability or mean score of serotonin, 0 to 1',
    dopamine Nullable(Float64) COMMENT 'probability or mean score of dopamine, 0 to 1',
    tyramine Nullable(Float64) COMMENT 'probability or mean score of tyramine, 0 to 1',
    histamine Nullable(Float64) COMMENT 'probability or mean score of histamine, 0 to 1',
    neurotransmitter LowCardinality(String) COMMENT 'winning transmitter, or the call of the source',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    soma_z Nullable(Float64) COMMENT 'soma, z [nm]',
    soma_x Nullable(Float64) COMMENT 'soma, x [nm]',
    soma_y Nullable(Float64) COMMENT 'soma, y [nm]',
    cable_length Nullable(Float64) COMMENT 'length of the skeleton [nm]',
    branch_count Nullable(UInt32) COMMENT 'branch points of the skeleton',
    tip_count Nullable(UInt32) COMMENT 'end points of the skeleton',
    skeleton_count Nullable(UInt32) COMMENT 'connected pieces of the skeleton',
    is_tree Nullable(UInt8) COMMENT '1 when the skeleton is a tree, else 0',
    s3_swb_location String COMMENT 'object that holds the skeleton',
    terminal_count Nullable(UInt32) COMMENT 'axon terminals',
    dendritic_spine_count Nullable(UInt32) COMMENT 'dendritic spines',
    mitochondria_count Nullable(UInt32) COMMENT 'mitochondria inside',
    total_mitochondria_volume Nullable(Float64) COMMENT 'volume of all mitochondria inside [nm^3]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per neuron (or muscle or other cell that the source treats as a node)';

CREATE TABLE IF NOT EXISTS syndb.neuron_relations
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    pre_id UUID COMMENT 'neuron the relation starts from',
    post_id UUID COMMENT 'neuron the relation points to',
    relation LowCardinality(String) COMMENT 'kind of relation',
    weight Nullable(Float64) COMMENT 'strength of the relation'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'directed, non-synaptic relation between two neurons';

CREATE TABLE IF NOT EXISTS syndb.dendrites
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    cable_length Nullable(Float64) COMMENT 'length of the skeleton [nm]',
    dendritic_spine_count Nullable(UInt32) COMMENT 'dendritic spines',
    mitochondria_count Nullable(UInt32) COMMENT 'mitochondria inside',
    total_mitochondria_volume Nullable(Float64) COMMENT 'volume of all mitochondria inside [nm^3]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per dendrite';

CREATE TABLE IF NOT EXISTS syndb.axons
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    cable_length Nullable(Float64) COMMENT 'length of the skeleton [nm]',
    terminal_count Nullable(UInt32) COMMENT 'axon terminals',
    mitochondria_count Nullable(UInt32) COMMENT 'mitochondria inside',
    total_mitochondria_volume Nullable(Float64) COMMENT 'volume of all mitochondria inside [nm^3]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per axon';

CREATE TABLE IF NOT EXISTS syndb.pre_synaptic_terminals
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    vesicle_count Nullable(UInt32) COMMENT 'vesicles inside',
    total_vesicle_volume Nullable(Float64) COMMENT 'volume of all vesicles inside [nm^3]',
    mitochondria_count Nullable(UInt32) COMMENT 'mitochondria inside',
    total_mitochondria_volume Nullable(Float64) COMMENT 'volume of all mitochondria inside [nm^3]',
    forms_synapse_with Nullable(UUID) COMMENT 'cid of the synapse it takes part in'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per presynaptic terminal (bouton)';

CREATE TABLE IF NOT EXISTS syndb.synapses
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    pre_id UUID COMMENT 'presynaptic neuron',
    post_id UUID COMMENT 'postsynaptic neuron',
    pre_component_id Nullable(UUID) COMMENT 'presynaptic structure',
    post_component_id Nullable(UUID) COMMENT 'postsynaptic structure',
    synapse_type LowCardinality(String) COMMENT 'chemical or electrical',
    synapse_count UInt32 COMMENT 'synapses (or the source''s weight) this row stands for',
    brain_region LowCardinality(String) COMMENT 'brain region as the source names it',
    gaba Nullable(Float64) COMMENT 'probability or mean score of gaba, 0 to 1',
    acetylcholine Nullable(Float64) COMMENT 'probability or mean score of acetylcholine, 0 to 1',
    glutamate Nullable(Float64) COMMENT 'probability or mean score of glutamate, 0 to 1',
    octopamine Nullable(Float64) COMMENT 'probability or mean score of octopamine, 0 to 1',
    serotonin Nullable(Float64) COMMENT 'probability or mean score of serotonin, 0 to 1',
    dopamine Nullable(Float64) COMMENT 'probability or mean score of dopamine, 0 to 1',
    tyramine Nullable(Float64) COMMENT 'probability or mean score of tyramine, 0 to 1',
    histamine Nullable(Float64) COMMENT 'probability or mean score of histamine, 0 to 1',
    neurotransmitter LowCardinality(String) COMMENT 'winning transmitter, or the call of the source',
    connection_score Nullable(Float64) COMMENT 'confidence of the detection',
    cleft_score Nullable(Int32) COMMENT 'score of the synaptic cleft',
    root_id Nullable(UInt64) COMMENT 'root id in the source''s segmentation',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    pre_z Nullable(Float64) COMMENT 'presynaptic site, z [nm]',
    pre_x Nullable(Float64) COMMENT 'presynaptic site, x [nm]',
    pre_y Nullable(Float64) COMMENT 'presynaptic site, y [nm]',
    post_z Nullable(Float64) COMMENT 'postsynaptic site, z [nm]',
    post_x Nullable(Float64) COMMENT 'postsynaptic site, x [nm]',
    post_y Nullable(Float64) COMMENT 'postsynaptic site, y [nm]',
    psd_area Nullable(Float64) COMMENT 'area of the postsynaptic density [nm^2]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per synapse, or per connected pair of neurons with its number of synapses';

CREATE TABLE IF NOT EXISTS syndb.dendritic_spines
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    head_volume Nullable(Float64) COMMENT 'volume of the spine head [nm^3]',
    neck_length Nullable(Float64) COMMENT 'length of the spine neck [nm]',
    neck_diameter Nullable(Float64) COMMENT 'diameter of the spine neck [nm]',
    psd_area Nullable(Float64) COMMENT 'area of the postsynaptic density [nm^2]',
    spine_apparatus Nullable(UInt8) COMMENT '1 when a spine apparatus is seen, else 0',
    forms_synapse_with Nullable(UUID) COMMENT 'cid of the synapse it takes part in'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per dendritic spine';

CREATE TABLE IF NOT EXISTS syndb.endoplasmic_reticulum
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    ribosome_count Nullable(UInt32) COMMENT 'ribosomes on it'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per piece of endoplasmic reticulum';

CREATE TABLE IF NOT EXISTS syndb.nuclei
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per nucleus';

CREATE TABLE IF NOT EXISTS syndb.vesicles
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    neurotransmitter LowCardinality(String) COMMENT 'winning transmitter, or the call of the source',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]',
    distance_to_active_zone Nullable(Float64) COMMENT 'distance to the active zone [nm]',
    minimum_normal_length Nullable(Int32) COMMENT 'shortest normal to the membrane [nm]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per vesicle';

CREATE TABLE IF NOT EXISTS syndb.mitochondria
(
    dataset_id UUID COMMENT 'data set the row belongs to',
    version UInt32 COMMENT 'version of the data set',
    cid UUID COMMENT 'id of the row, made from data set and source id',
    source_id String COMMENT 'id of the row in its source',
    parent_id Nullable(UUID) COMMENT 'cid of the enclosing structure',
    parent_enum Nullable(UInt8) COMMENT 'number of the table parent_id points to',
    neuron_id Nullable(UUID) COMMENT 'cid of the neuron it belongs to',
    voxel_volume Nullable(Float64) COMMENT 'volume counted in voxels [nm^3]',
    voxel_radius Nullable(Float64) COMMENT 'radius of the sphere of that volume [nm]',
    mesh_volume Nullable(Float64) COMMENT 'volume enclosed by the mesh [nm^3]',
    mesh_surface_area Nullable(Float64) COMMENT 'surface area of the mesh [nm^2]',
    mesh_area_volume_ratio Nullable(Float64) COMMENT 'surface area divided by volume [nm^-1]',
    mesh_sphericity Nullable(Float64) COMMENT 'surface of the sphere of equal volume over the surface of the mesh, 0 to 1',
    s3_mesh_location String COMMENT 'object that holds the mesh',
    centroid_z Nullable(Float64) COMMENT 'centroid, z [nm]',
    centroid_x Nullable(Float64) COMMENT 'centroid, x [nm]',
    centroid_y Nullable(Float64) COMMENT 'centroid, y [nm]'
)
ENGINE = MergeTree
PARTITION BY (dataset_id, version)
ORDER BY (dataset_id, version, cid)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'one row per mitochondrion';
