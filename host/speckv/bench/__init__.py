"""Measurements that the reports are made of."""
