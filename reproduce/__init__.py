"""Runs, records, tables and notebooks that reproduce the tables of *Neural Similarity Learning* (NeurIPS
2019).

One way through: ``experiments/*.toml`` -> run identity (:mod:`runs`) -> record (:mod:`store`) -> table
(:mod:`tables`) -> notebook. Nothing flows back: tables and notebooks read records and never train.
"""
