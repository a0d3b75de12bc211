"""Where entries outlive the process."""
