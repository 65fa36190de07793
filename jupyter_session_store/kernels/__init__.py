"""Who may say that a kernel is gone, and the kernel managers."""
