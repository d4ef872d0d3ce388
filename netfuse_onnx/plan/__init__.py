"""Correspondence -> Plan: a lowering per node, at the lowest cost over the whole graph."""
