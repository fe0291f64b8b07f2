"""Runs, records, tables and notebooks that reproduce the tables of *Neural Similarity Learning* (NeurIPS 2019).

One way through: ``declare/experiments/*.toml`` -> run identity (:mod:`reproduce.declare.runs`) -> record
(:mod:`reproduce.run.store`) -> verdicts (:mod:`reproduce.verdicts.judge`) -> table (:mod:`reproduce.show.tables`) ->
notebook. Nothing flows back: tables and notebooks read records and never train.
"""
