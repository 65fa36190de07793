"""Local kernels that outlive their server: their records, their locks and their adoption."""
