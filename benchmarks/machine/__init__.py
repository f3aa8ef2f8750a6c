"""What a machine is, for records: system, fabric, container, variables and installed packages.

Read first: `packages.PackageList`, `pins.pins`, `fabric.describe_fabric`, `container.container`.
"""
