"""Numbered SQL files, ``NNNN_name.sql``, read by ``schema``. Each only adds to the database ``syndb``."""
