"""Bytes: videos, tables of labels and weights, each with one door. This floor knows files; it does not know noise, networks or windows."""
