"""Rollouts: the engines that sample the policy, behind one small interface."""
