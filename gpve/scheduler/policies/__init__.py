"""The built-in policies, one file each, named as the policy is."""
