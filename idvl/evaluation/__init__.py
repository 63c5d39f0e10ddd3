"""Model + samples -> predictions -> results."""
