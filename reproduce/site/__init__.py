"""``make site``: an offline site from stored records, tables and executed notebooks; nothing is trained."""
