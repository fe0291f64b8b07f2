"""How runs are executed and kept: workers, executors, the cluster, records, fingerprints of data, costs."""
