"""Model + samples -> the dimension of every layer."""
