"""The federation's controlled vocabularies at the hub: :mod:`syndb_hub.ontology.table` reads them."""
